/* Gather, multiply and add in one pass: rows are read where they lie, sums stay in registers.

Compiled once for each instruction set, with FIP_ISA (a suffix) and FIP_WIDTH (floats of a vector) set by the build. The output
is cut into blocks of rows and panels of columns; a block is computed by one thread, tap after tap, so that neither the number of
threads nor chance changes the order of a sum. */
#include "fip.h"
#include <string.h>
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(name) JOIN(name, FIP_ISA)
#define W FIP_WIDTH
#define ALWAYS static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint32_t bits __attribute__((vector_size(4 * W), aligned(4), may_alias));

#ifdef FIP_MANY_REGISTERS /* 32 vectors: 24 sums, 4 of the weight, 1 of the input */
#define MAX_VECS 4
static const int ROWS[5] = {0, 16, 12, 8, 6};
#define MAX_ROWS 16
#else /* 16 vectors: 12 sums, 2 of the weight, 1 of the input */
#define MAX_VECS 2
static const int ROWS[5] = {0, 10, 6, 0, 0};
#define MAX_ROWS 10
#endif
#define PANEL (MAX_VECS * W)
#define BLOCK 512 /* most output rows of a block: 512 x PANEL sums fit the second-level cache beside the weights of a tap */
#define SMALLEST_BLOCK 128
#define ITEMS 24  /* blocks and panels for each thread, so that none waits long for the last one */
#define CHUNK 96  /* pairs of a weight gradient whose rows stay in the first-level cache */
#define SHARE 96  /* input channels of a weight gradient that one thread takes at a time */

ALWAYS vec load(const float *from) { return *(const vec *)from; }
ALWAYS void store(float *to, vec value) { *(vec *)to = value; }
ALWAYS vec splat(float value) { return value - (vec){0}; }
ALWAYS int64_t at_most(int64_t value, int64_t most) { return value < most ? value : most; }

/* A row of the input, or a line; rows are `width` floats apart. q: a fip_conv or a fip_grad. */
#define ROW_OF(q, in, width) \
    ((in) < (q)->map.num_in ? (const float *)(q)->feats + (int64_t)(in) * (width) \
                            : (const float *)(q)->lines + ((int64_t)(in) - (q)->map.num_in) * (width))

/* First place in ascending `rows` (count) whose value is not below `least`. */
static int64_t lower_bound(const int32_t *rows, int64_t count, int64_t least) {
    int64_t low = 0;
    while (count > 0) {
        int64_t half = count / 2;
        if (rows[low + half] < least) {
            low += half + 1;
            count -= half + 1;
        } else {
            count = half;
        }
    }
    return low;
}

/* The same, from a place near it, and mostly before it: a thread comes to blocks of rows in ascending order. */
static int64_t lower_bound_near(const int32_t *rows, int64_t count, int64_t least, int64_t from) {
    if (from > 0 && rows[from - 1] >= least) return lower_bound(rows, from, least);
    for (int64_t step = 1; from + step <= count; step *= 2) {
        if (rows[from + step - 1] >= least) return from + lower_bound(rows + from, step - 1, least);
        from += step;
    }
    return from + lower_bound(rows + from, count - from, least);
}

/* c[r] += a[r] (cin) times b (cin, vecs x W), for `rows` rows. */
ALWAYS void tile(const int rows, const int vecs, const float *const *a, const float *b, float *const *c, int64_t cin) {
    vec sum[MAX_ROWS][MAX_VECS];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) sum[r][v] = load(c[r] + v * W);
    const float *row[MAX_ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) row[r] = a[r];
    for (int64_t k = 0; k < cin; k++, b += vecs * W) {
        vec weight[MAX_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) weight[v] = load(b + v * W);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            vec value = splat(row[r][k]);
#pragma GCC unroll 4
            for (int v = 0; v < vecs; v++) sum[r][v] += value * weight[v];
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) store(c[r] + v * W, sum[r][v]);
}

/* The pairs of a tap whose weight b (cin, vecs x W) fits into registers: row after row is added to, and no tile of them is gathered. */
ALWAYS void narrow(const int cin, const int vecs, const struct fip_conv *q, const int32_t *in_rows, const int32_t *out_rows, int64_t pairs,
                   const float *b, int64_t column) {
    vec weight[MAX_ROWS][MAX_VECS];
#pragma GCC unroll 16
    for (int k = 0; k < cin; k++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) weight[k][v] = load(b + (k * vecs + v) * W);
    for (int64_t p = 0; p < pairs; p++) {
        const float *a = ROW_OF(q, in_rows[p], cin);
        float *c = q->out + out_rows[p] * q->out_stride + column;
        vec sum[MAX_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) sum[v] = load(c + v * W);
#pragma GCC unroll 16
        for (int k = 0; k < cin; k++) {
            vec value = splat(a[k]);
#pragma GCC unroll 4
            for (int v = 0; v < vecs; v++) sum[v] += value * weight[k][v];
        }
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) store(c + v * W, sum[v]);
    }
}

/* out (rows, stride) += sum over pairs of x[p][0..rows]^T g[p][0..vecs x W]. */
ALWAYS void outer(const int rows, const int vecs, const float *const *x, const float *const *g, int64_t from, int64_t column, int64_t pairs,
                  float *out, int64_t stride) {
    vec sum[MAX_ROWS][MAX_VECS];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) sum[r][v] = load(out + r * stride + v * W);
    for (int64_t p = 0; p < pairs; p++) {
        const float *xs = x[p] + from, *gs = g[p] + column;
        vec grad[MAX_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) grad[v] = load(gs + v * W);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            vec value = splat(xs[r]);
#pragma GCC unroll 4
            for (int v = 0; v < vecs; v++) sum[r][v] += value * grad[v];
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) store(out + r * stride + v * W, sum[r][v]);
}

#ifdef __AVX512BF16__
#include "bf16.h"
#endif

/* A switch over the number of rows makes each a constant, so that the sums of `kernel` are registers. */
#define CASE(n, kernel, vecs, ...) \
    case n: kernel(n, vecs, __VA_ARGS__); break;
#define FOR_ROWS_6(count, kernel, vecs, ...)                                                                                    \
    CASE(1, kernel, vecs, __VA_ARGS__) CASE(2, kernel, vecs, __VA_ARGS__) CASE(3, kernel, vecs, __VA_ARGS__)                     \
    CASE(4, kernel, vecs, __VA_ARGS__) CASE(5, kernel, vecs, __VA_ARGS__) CASE(6, kernel, vecs, __VA_ARGS__)
#define FOR_ROWS_8(count, kernel, vecs, ...) \
    FOR_ROWS_6(count, kernel, vecs, __VA_ARGS__) CASE(7, kernel, vecs, __VA_ARGS__) CASE(8, kernel, vecs, __VA_ARGS__)
#define FOR_ROWS_10(count, kernel, vecs, ...) \
    FOR_ROWS_8(count, kernel, vecs, __VA_ARGS__) CASE(9, kernel, vecs, __VA_ARGS__) CASE(10, kernel, vecs, __VA_ARGS__)
#define FOR_ROWS_12(count, kernel, vecs, ...) \
    FOR_ROWS_10(count, kernel, vecs, __VA_ARGS__) CASE(11, kernel, vecs, __VA_ARGS__) CASE(12, kernel, vecs, __VA_ARGS__)
#define FOR_ROWS_16(count, kernel, vecs, ...)                                                                                 \
    FOR_ROWS_12(count, kernel, vecs, __VA_ARGS__) CASE(13, kernel, vecs, __VA_ARGS__) CASE(14, kernel, vecs, __VA_ARGS__)     \
    CASE(15, kernel, vecs, __VA_ARGS__) CASE(16, kernel, vecs, __VA_ARGS__)
#define SWITCH(list, kernel, count, vecs, ...)          \
    switch (count) { list(count, kernel, vecs, __VA_ARGS__) }
#if MAX_VECS == 4
#define DISPATCH(kernel, vecs, count, ...)                                   \
    switch (vecs) {                                                          \
    case 4: SWITCH(FOR_ROWS_6, kernel, count, 4, __VA_ARGS__) break;         \
    case 3: SWITCH(FOR_ROWS_8, kernel, count, 3, __VA_ARGS__) break;         \
    case 2: SWITCH(FOR_ROWS_12, kernel, count, 2, __VA_ARGS__) break;        \
    default: SWITCH(FOR_ROWS_16, kernel, count, 1, __VA_ARGS__)              \
    }
#else
#define DISPATCH(kernel, vecs, count, ...)                                   \
    switch (vecs) {                                                          \
    case 2: SWITCH(FOR_ROWS_6, kernel, count, 2, __VA_ARGS__) break;         \
    default: SWITCH(FOR_ROWS_10, kernel, count, 1, __VA_ARGS__)              \
    }
#endif

typedef void multiply(int vecs, int rows, const float *const *a, const float *b, float *const *c, int64_t steps);

static void multiply_float(int vecs, int rows, const float *const *a, const float *b, float *const *c, int64_t steps) {
    DISPATCH(tile, vecs, rows, a, b, c, steps)
}

static void multiply_narrow(int vecs, const struct fip_conv *q, const int32_t *in_rows, const int32_t *out_rows, int64_t pairs,
                            const float *b, int64_t column) {
    DISPATCH(narrow, vecs, q->cin, q, in_rows, out_rows, pairs, b, column)
}

#ifdef __AVX512BF16__
static void multiply_bf16(int vecs, int rows, const float *const *a, const float *b, float *const *c, int64_t steps) {
    DISPATCH(tile_bf16, vecs, rows, a, b, c, steps)
}
#endif

/* What the sums of a block start from: bias and residual, or nothing. */
static void begin(const struct fip_conv *q, int64_t first, int64_t last, int64_t column, int64_t columns) {
    int64_t real = q->cout - column < columns ? q->cout - column : columns;
    for (int64_t row = first; row < last; row++) {
        float *out = q->out + row * q->out_stride + column;
        memset(out + real, 0, (size_t)(columns - real) * sizeof(float));
        const float *bias = q->bias ? q->bias + column : 0;
        const float *residual = q->residual ? q->residual + row * q->cout + column : 0;
        if (bias && residual)
            for (int64_t j = 0; j < real; j++) out[j] = bias[j] + residual[j];
        else if (bias || residual)
            memcpy(out, bias ? bias : residual, (size_t)real * sizeof(float));
        else
            memset(out, 0, (size_t)real * sizeof(float));
    }
}

static void rectify(const struct fip_conv *q, int64_t first, int64_t last, int64_t column, int64_t columns) {
    for (int64_t row = first; row < last; row++) {
        float *out = q->out + row * q->out_stride + column;
        for (int64_t j = 0; j < columns; j++) out[j] = out[j] > 0 ? out[j] : (out[j] != out[j] ? out[j] : 0);
    }
}

/* How a convolution multiplies. most: rows at once, by the number of vectors; steps: floats of an input row that are read; narrow:
whether few of them may be multiplied without tiles. */
struct way {
    multiply *times;
    const int *most;
    int64_t steps;
    int narrow;
};

/* A tap's pairs, in tiles of as many rows as `way` takes at once. */
static void tiles_of(const struct fip_conv *q, const struct way *way, const int32_t *in_rows, const int32_t *out_rows, int64_t pairs,
                     int vecs, const float *weights, int64_t column) {
    int64_t steps = way->steps;
    for (int64_t pair = 0; pair < pairs;) {
        int rows = (int)at_most(pairs - pair, way->most[vecs]);
        const float *a[MAX_ROWS];
        float *c[MAX_ROWS];
        for (int r = 0; r < rows; r++) {
            int64_t from = in_rows[pair + r];
            __asm__("" : "+r"(from)); /* one by one: in vectors, addresses take longer */
            a[r] = ROW_OF(q, from, steps);
            c[r] = q->out + out_rows[pair + r] * q->out_stride + column;
        }
        way->times(vecs, rows, a, weights, c, steps);
        pair += rows;
    }
}

/* All taps of one block of rows and one panel of columns. at (K): where the thread's last block ended in each. */
static void block_of(const struct fip_conv *q, const struct way *way, int64_t first, int64_t last, int64_t panel, int64_t *at) {
    int64_t column = panel * PANEL, columns = at_most(q->out_stride - column, PANEL), steps = way->steps;
    int vecs = (int)(columns / W);
    const float *weights = (const float *)q->packed + column * q->map.taps * steps;
    begin(q, first, last, column, columns);
    for (int64_t tap = 0; tap < q->map.taps; tap++, weights += steps * columns) {
        int64_t start = q->map.starts[tap], count = q->map.starts[tap + 1] - start;
        const int32_t *out_rows = q->map.out_rows + start, *in_rows = q->map.in_rows + start;
        int64_t pair = lower_bound_near(out_rows, count, first, at[tap]), end = at[tap] = lower_bound_near(out_rows, count, last, pair);
        if (way->narrow && steps <= ROWS[vecs])
            multiply_narrow(vecs, q, in_rows + pair, out_rows + pair, end - pair, weights, column);
        else
            tiles_of(q, way, in_rows + pair, out_rows + pair, end - pair, vecs, weights, column);
    }
    if (q->relu) rectify(q, first, last, column, columns);
}

static void conv(const struct fip_conv *q, struct way way) {
    int64_t rows = q->map.num_out, size = BLOCK, panels = (q->out_stride + PANEL - 1) / PANEL;
    while (q->threads > 1 && size > SMALLEST_BLOCK && rows / size * panels < ITEMS * q->threads) size /= 2;
    int64_t blocks = (rows + size - 1) / size;
#pragma omp parallel num_threads(q->threads) if (q->threads > 1)
    {
        int64_t at[q->map.taps];
        memset(at, 0, sizeof at);
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < blocks * panels; item++) {
            int64_t first = item % blocks * size;
            block_of(q, &way, first, at_most(first + size, rows), item / blocks, at);
        }
    }
}

static void conv_float(const struct fip_conv *q) { conv(q, (struct way){multiply_float, ROWS, q->cin, 1}); }

#ifdef __AMX_BF16__
#include "amx.h"
#endif

#ifdef __AVX512BF16__
static void conv_bf16(const struct fip_conv *q) {
    int64_t steps = (q->cin + 1) / 2;
#ifdef __AMX_BF16__
    int tile = tile_steps(steps);
    if (tile) return conv_by_tiles(q, steps, tile);
#endif
    conv(q, (struct way){multiply_bf16, ROWS, steps, 0});
}
#endif

/* Rows x and g of some pairs of a tap, of float or bfloat16. */
struct pairs {
    const float *x[CHUNK], *g[CHUNK];
    int64_t count;
};

typedef void accumulate(const struct pairs *some, int vecs, int64_t from, int64_t to, int64_t column, float *out, int64_t stride);

static void accumulate_float(const struct pairs *some, int vecs, int64_t from, int64_t to, int64_t column, float *out, int64_t stride) {
    for (int64_t row = from; row < to; row += ROWS[vecs]) {
        int rows = to - row < ROWS[vecs] ? (int)(to - row) : ROWS[vecs];
        DISPATCH(outer, vecs, rows, some->x, some->g, row, column, some->count, out + row * stride + column, stride)
    }
}

#ifdef __AVX512BF16__
static void accumulate_bf16(const struct pairs *some, int vecs, int64_t from, int64_t to, int64_t column, float *out, int64_t stride) {
    float x[CHUNK / 2 * SHARE], g[CHUNK / 2 * PANEL];
    int64_t steps = (some->count + 1) / 2;
    for (int64_t p = 0; p < steps; p++) {
        int two = 2 * p + 1 < some->count;
        weave_low((const uint16_t *)some->x[2 * p] + from, two ? (const uint16_t *)some->x[2 * p + 1] + from : 0, to - from, x + p * SHARE);
        weave_low((const uint16_t *)some->g[2 * p] + column, two ? (const uint16_t *)some->g[2 * p + 1] + column : 0, vecs * W, g + p * vecs * W);
    }
    for (int64_t row = from; row < to; row += ROWS[vecs]) {
        int rows = to - row < ROWS[vecs] ? (int)(to - row) : ROWS[vecs];
        DISPATCH(outer_bf16, vecs, rows, x + (row - from), g, steps, out + row * stride + column, stride)
    }
}
#endif

/* Rows `from`..`to` of dW of one tap, in one panel of columns. */
static void gradient_of(const struct fip_grad *q, accumulate *add, int low, int64_t tap, int64_t from, int64_t to, int64_t column) {
    int64_t width = low ? (q->cin + 1) / 2 : q->cin, grad_width = low ? q->stride / 2 : q->stride;
    int64_t columns = q->stride - column < PANEL ? q->stride - column : PANEL;
    float *out = q->out + tap * q->cin * q->stride;
    for (int64_t row = from; row < to; row++) memset(out + row * q->stride + column, 0, (size_t)columns * sizeof(float));
    for (int64_t pair = q->map.starts[tap]; pair < q->map.starts[tap + 1]; pair += CHUNK) {
        struct pairs some;
        some.count = q->map.starts[tap + 1] - pair < CHUNK ? q->map.starts[tap + 1] - pair : CHUNK;
        for (int64_t p = 0; p < some.count; p++) {
            some.x[p] = ROW_OF(q, q->map.in_rows[pair + p], width);
            some.g[p] = (const float *)q->grad + q->map.out_rows[pair + p] * grad_width;
        }
        add(&some, (int)(columns / W), from, to, column, out, q->stride);
    }
}

static void gradient(const struct fip_grad *q, accumulate *add, int low) {
    int64_t panels = (q->stride + PANEL - 1) / PANEL, parts = (q->cin + SHARE - 1) / SHARE, items = q->map.taps * panels * parts;
#pragma omp parallel for schedule(dynamic) num_threads(q->threads) if (q->threads > 1)
    for (int64_t item = 0; item < items; item++) {
        int64_t part = item % parts, panel = item / parts % panels, tap = item / parts / panels;
        int64_t to = (part + 1) * SHARE < q->cin ? (part + 1) * SHARE : q->cin;
        gradient_of(q, add, low, tap, part * SHARE, to, panel * PANEL);
    }
}

static void weight_grad(const struct fip_grad *q) { gradient(q, accumulate_float, 0); }

#ifdef __AVX512BF16__
static void weight_grad_bf16(const struct fip_grad *q) {
#ifdef __AMX_BF16__
    if (q->cin % 16 == 0) return gradient_by_tiles(q);
#endif
    gradient(q, accumulate_bf16, 1);
}
#endif

/* Rounded to bfloat16, to even where two are as near, but still float. NaN stays NaN. */
ALWAYS bits nearest(bits x) {
    bits even = (x + 0x7fff + (x >> 16 & 1)) & 0xffff0000, nan = (bits)((x & 0x7fffffff) > 0x7f800000);
    return (nan & (x | 0x00400000)) | (~nan & even);
}

static void round_float(const float *from, int64_t count, float *to, int32_t threads) {
    int64_t whole = count / W * W;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < whole; i += W) *(bits *)(to + i) = nearest(*(const bits *)(from + i));
    for (int64_t i = whole; i < count; i++) to[i] = ((vec)nearest((bits)splat(from[i])))[0];
}

#include "norm.h"

const struct fip_kernels NAME(fip_kernels_) = {
    .panel = PANEL,
    .width = W,
    .conv = conv_float,
    .round = round_float,
#ifdef __AVX512BF16__
    .conv_bf16 = conv_bf16,
#ifdef __AMX_BF16__
    .packs = packs,
#endif
    .pack_bf16 = pack_bf16,
    .round_bf16 = round_bf16,
    .sum_lines_bf16 = sum_lines_bf16,
#endif
    .norm_scratch = norm_scratch,
    .norm_statistics = norm_statistics,
    .norm_apply = norm_apply,
    .norm_sums = norm_sums,
    .norm_back = norm_back,
    .weight_grad = weight_grad,
#ifdef __AVX512BF16__
    .weight_grad_bf16 = weight_grad_bf16,
#endif
};
