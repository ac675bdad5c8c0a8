/* What kernels.c needs where the processor multiplies tiles of bfloat16 (AMX): 16 rows of 32 channels by 32 channels of 16 columns.

Of the eight tiles 0 to 3 are sums (2 x 2), 4 and 5 rows of the left factor, 6 and 7 columns of the right one. */
#define TILE_ROWS 32    /* pairs of a convolution that are multiplied at once */
#define MOST_PAIRS 64   /* of it that are laid side by side at once */
#define LEFT 32768      /* most floats that they take */
#define AHEAD 64        /* how many pairs before it is laid a row is asked for */
#define MOST_STEPS (LEFT / TILE_ROWS)
#define MOST_PANELS 4   /* for which pairs are laid once */
#define RIGHT 65536     /* most floats of a weight that is packed as it is used */
#define SUMS (1 << 18)  /* most sums of a block, which stay in the second-level cache beside the weights of a tap */
#define LONG_CHUNK 512  /* pairs of a weight gradient between two visits to its sums */
#define GRAD_BLOCK 2048 /* its output rows for which all taps are visited, while these rows and their neighbours are in the second-level cache */
#define WIDE 256        /* channels of either side that are brought into order at once */
#define PARTS 8         /* of it for each thread, so that none waits long for the last one */
#define PAST 65536      /* values of a tap, from which on its sums are written past the caches */

/* Steps (pairs of channels) of a tile where an input row has so many in all; 0 where tiles do not fit. */
static int tile_steps(int64_t steps) { return steps > MOST_STEPS ? 0 : steps % 16 == 0 ? 16 : steps == 8 ? 8 : 0; }

static void begin_tiles(int steps) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        shape.rows[tile] = (uint8_t)(tile < 6 ? 16 : steps);
        shape.bytes[tile] = (uint16_t)(tile == 4 || tile == 5 ? 4 * steps : 64);
    }
    _tile_loadconfig(&shape);
}

static void end_tiles(void) { _tile_release(); }

/* Tiles 0 to 3 += left (rows of `steps` elements, in stretches of `tile`, each TILE_ROWS rows long) times right (steps, stride). */
ALWAYS void multiply_stretch(const float *left, const float *right, int64_t steps, int tile, int64_t stride, int second_rows, int second_columns) {
    for (int64_t k = 0; k < steps; k += tile, left += TILE_ROWS * tile, right += tile * stride) {
        _tile_loadd(4, left, 4 * tile);
        _tile_loadd(6, right, 4 * stride);
        _tile_dpbf16ps(0, 4, 6);
        if (second_columns) {
            _tile_loadd(7, right + W, 4 * stride);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (second_rows) {
            _tile_loadd(5, left + 16 * tile, 4 * tile);
            _tile_dpbf16ps(2, 5, 6);
            if (second_columns) _tile_dpbf16ps(3, 5, 7);
        }
    }
}

/* Some pairs of a tap in a block. left: TILE_ROWS of them after the other, each in stretches of `tile` steps of all rows. What is left
of the last tile is whatever lay there: its sums are not read. */
struct laid {
    float left[LEFT] __attribute__((aligned(64)));
    float *out[MOST_PAIRS]; /* where their sums go, in the first column of the block */
    int64_t count;
};

/* From `pair`, of those before `end`. */
static void lay(const struct fip_conv *q, int64_t steps, int tile, int64_t pair, int64_t end, int64_t column, struct laid *some) {
    const int32_t *in_rows = q->map.in_rows + pair, *out_rows = q->map.out_rows + pair;
    for (int64_t p = 0; p < some->count; p++) {
        int64_t ahead = pair + p + AHEAD < end ? p + AHEAD : p;
        const float *from = ROW_OF(q, in_rows[p], steps), *next = ROW_OF(q, in_rows[ahead], steps);
        for (int64_t line = 0; line < 256 && line < steps; line += 16) __builtin_prefetch(next + line, 0, 2);
        float *to = some->left + p / TILE_ROWS * TILE_ROWS * steps + p % TILE_ROWS * tile;
        some->out[p] = q->out + out_rows[p] * q->out_stride + column;
        if (tile == 16)
            for (int64_t k = 0; k < steps; k += 16, to += TILE_ROWS * 16) _mm512_store_ps(to, _mm512_loadu_ps(from + k));
        else
            _mm256_store_ps(to, _mm256_loadu_ps(from));
    }
}

static void add_sums(const float *sums, float *const *out, int64_t rows, int64_t column, int more_columns) {
    for (int64_t r = 0; r < rows; r++, sums += 32) {
        float *to = out[r] + column;
        store(to, load(to) + load(sums));
        if (more_columns) store(to + W, load(to + W) + load(sums + W));
    }
}

/* Up to 32 columns of a panel: the sums of some pairs go to their rows while the next ones are multiplied. */
static void multiply_columns(const struct laid *some, const float *right, int64_t steps, int tile, int64_t stride, int64_t column, int more_columns) {
    float sums[2][TILE_ROWS * 32] __attribute__((aligned(64)));
    int64_t p = 0;
    for (; p < some->count; p += TILE_ROWS) {
        const float *left = some->left + p * steps;
        float *to = sums[p / TILE_ROWS & 1];
        int more_rows = some->count - p > 16;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        if (more_rows && more_columns)
            multiply_stretch(left, right, steps, tile, stride, 1, 1);
        else
            multiply_stretch(left, right, steps, tile, stride, more_rows, more_columns);
        _tile_stored(0, to, 128);
        if (more_columns) _tile_stored(1, to + W, 128);
        if (more_rows) _tile_stored(2, to + 16 * 32, 128);
        if (more_rows && more_columns) _tile_stored(3, to + 16 * 32 + W, 128);
        if (p) add_sums(sums[(p / TILE_ROWS + 1) & 1], some->out + p - TILE_ROWS, TILE_ROWS, column, more_columns);
    }
    p -= TILE_ROWS;
    add_sums(sums[p / TILE_ROWS & 1], some->out + p, some->count - p, column, more_columns);
}

/* All taps of one block of rows and of some panels of columns. */
static void tiles_of_block(const struct fip_conv *q, int64_t steps, int tile, int64_t first, int64_t last, int64_t column, int64_t columns) {
    struct laid some;
    float right[RIGHT] __attribute__((aligned(64))); /* weights of a tap, where they are packed here */
    int64_t most = at_most(LEFT / steps / TILE_ROWS * TILE_ROWS, MOST_PAIRS), past = column + columns;
    begin(q, first, last, column, columns);
    for (int64_t tap = 0; tap < q->map.taps; tap++) {
        int64_t start = q->map.starts[tap], count = q->map.starts[tap + 1] - start;
        const int32_t *out_rows = q->map.out_rows + start;
        int64_t pair = lower_bound(out_rows, count, first), end = pair + lower_bound(out_rows + pair, count - pair, last);
        if (!q->packed && pair < end)
            for (int64_t panel = column; panel < past; panel += PANEL)
                pack_panel(q->weight + tap * q->cin * q->cout, q->cin, q->cout, q->transposed, panel, at_most(past - panel, PANEL),
                           right + (panel - column) * steps);
        for (; pair < end; pair += some.count) {
            some.count = at_most(end - pair, most);
            lay(q, steps, tile, start + pair, start + end, column, &some);
            for (int64_t panel = column; panel < past; panel += PANEL) {
                int64_t wide = at_most(past - panel, PANEL);
                const float *weights = q->packed ? (const float *)q->packed + (panel * q->map.taps + tap * wide) * steps
                                                 : right + (panel - column) * steps;
                for (int64_t j = 0; j < wide; j += 32) multiply_columns(&some, weights + j, steps, tile, wide, panel - column + j, j + W < wide);
            }
        }
    }
    if (q->relu) rectify(q, first, last, column, columns);
}

/* Panels of a block, so many that every thread has one where there is but one block of rows. */
static int64_t panels_together(const struct fip_conv *q) {
    int64_t panels = (q->out_stride + PANEL - 1) / PANEL, most = at_most(panels, MOST_PANELS);
    return q->packed || q->threads == 1 || most * q->threads <= panels ? most : panels / q->threads;
}

/* Where all rows are one block each weight is used at one place only: what is packed there is read back from a cache. */
static int32_t packs(const struct fip_conv *q) {
    int64_t steps = (q->cin + 1) / 2, panels = (q->out_stride + PANEL - 1) / PANEL, together = panels_together(q);
    return tile_steps(steps) && q->threads <= panels && together * PANEL * steps <= RIGHT && q->map.num_out * together * PANEL <= SUMS;
}

static void conv_by_tiles(const struct fip_conv *q, int64_t steps, int tile) {
    int64_t rows = q->map.num_out, panels = (q->out_stride + PANEL - 1) / PANEL, together = panels_together(q);
    int64_t size = SUMS / (together * PANEL), parts = (panels + together - 1) / together;
    while (q->packed && q->threads > 1 && size > SMALLEST_BLOCK && rows / size * parts < ITEMS * q->threads) size /= 2;
    int64_t blocks = (rows + size - 1) / size;
#pragma omp parallel for schedule(dynamic) num_threads(q->threads) if (q->threads > 1)
    for (int64_t item = 0; item < blocks * parts; item++) {
        int64_t first = item % blocks * size, column = item / blocks * together * PANEL;
        begin_tiles(tile);
        tiles_of_block(q, steps, tile, first, at_most(first + size, rows), column, at_most(q->out_stride - column, together * PANEL));
        end_tiles();
    }
}

/* 32 rows change places with their channels, from bfloat16: x[0..32] -> stretches of 16 steps, (channels, 16). channels: a multiple of 8.

Rows 8 apart share a vector, so that what is left is to turn 8 x 8 values in each quarter of eight vectors. */
static void turn(const uint16_t *const *x, int64_t channels, float *to) {
    for (int64_t c = 0; c < channels; c += 8) {
        __m512i row[8], t[8];
        for (int i = 0; i < 8; i++) {
            row[i] = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)(x[i] + c)));
            row[i] = _mm512_mask_broadcast_i32x4(row[i], 0x00f0, _mm_loadu_si128((const void *)(x[8 + i] + c)));
            row[i] = _mm512_mask_broadcast_i32x4(row[i], 0x0f00, _mm_loadu_si128((const void *)(x[16 + i] + c)));
            row[i] = _mm512_mask_broadcast_i32x4(row[i], 0xf000, _mm_loadu_si128((const void *)(x[24 + i] + c)));
        }
        for (int i = 0; i < 8; i += 2) {
            t[i] = _mm512_unpacklo_epi16(row[i], row[i + 1]);
            t[i + 1] = _mm512_unpackhi_epi16(row[i], row[i + 1]);
        }
        for (int i = 0; i < 8; i += 4)
            for (int j = 0; j < 2; j++) {
                row[i + 2 * j] = _mm512_unpacklo_epi32(t[i + j], t[i + j + 2]);
                row[i + 2 * j + 1] = _mm512_unpackhi_epi32(t[i + j], t[i + j + 2]);
            }
        for (int j = 0; j < 4; j++) {
            _mm512_store_si512((void *)(to + (c + 2 * j) * 16), _mm512_unpacklo_epi64(row[j], row[j + 4]));
            _mm512_store_si512((void *)(to + (c + 2 * j + 1) * 16), _mm512_unpackhi_epi64(row[j], row[j + 4]));
        }
    }
}

/* Two rows side by side. Of 32 columns the first vector gets every first half of a quarter, as that costs one instruction: `untangle`. */
static void tangle(const uint16_t *a, const uint16_t *b, int64_t columns, float *to) {
    int64_t c = 0;
    for (; c + 32 <= columns; c += 32) {
        __m512i first = _mm512_loadu_si512((const void *)(a + c)), second = _mm512_loadu_si512((const void *)(b + c));
        _mm512_store_si512((void *)(to + c), _mm512_unpacklo_epi16(first, second));
        _mm512_store_si512((void *)(to + c + 16), _mm512_unpackhi_epi16(first, second));
    }
    if (c < columns) weave_low(a + c, b + c, columns - c, to + c);
}

/* Sums (rows, 32) of tangled columns, put in order. past: the caches, as their place was not read before and will not be soon. */
static void untangle(const float *sums, int64_t rows, float *out, int64_t stride, int past) {
    const __m512i first = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0), second = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
    for (int64_t row = 0; row < rows; row++, sums += 32, out += stride) {
        __m512d a = (__m512d)_mm512_load_ps(sums), b = (__m512d)_mm512_load_ps(sums + 16);
        __m512 low = (__m512)_mm512_permutex2var_pd(a, first, b), high = (__m512)_mm512_permutex2var_pd(a, second, b);
        if (past) {
            _mm512_stream_ps(out, low);
            _mm512_stream_ps(out + 16, high);
        } else {
            _mm512_storeu_ps(out, low);
            _mm512_storeu_ps(out + 16, high);
        }
    }
}

/* to (16 or 32, to_stride) = out, or nothing if it begins, + left times right, for the pairs of a chunk. left: stretches of
(channels, 16); right (steps, columns). */
ALWAYS void add_products(const float *left, int64_t channels, const float *right, int64_t columns, int64_t steps, const float *out, int64_t stride,
                         float *to, int64_t to_stride, int begins, int second_rows, int second_columns) {
    if (begins) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, out, 4 * stride);
        if (second_columns) _tile_loadd(1, out + W, 4 * stride);
        if (second_rows) _tile_loadd(2, out + 16 * stride, 4 * stride);
        if (second_rows && second_columns) _tile_loadd(3, out + 16 * stride + W, 4 * stride);
    }
    for (int64_t k = 0; k < steps; k += 16, left += 16 * channels, right += 16 * columns) {
        _tile_loadd(4, left, 64);
        _tile_loadd(6, right, 4 * columns);
        _tile_dpbf16ps(0, 4, 6);
        if (second_columns) {
            _tile_loadd(7, right + W, 4 * columns);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (second_rows) {
            _tile_loadd(5, left + 16 * 16, 64);
            _tile_dpbf16ps(2, 5, 6);
            if (second_columns) _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, to, 4 * to_stride);
    if (second_columns) _tile_stored(1, to + W, 4 * to_stride);
    if (second_rows) _tile_stored(2, to + 16 * to_stride, 4 * to_stride);
    if (second_rows && second_columns) _tile_stored(3, to + 16 * to_stride + W, 4 * to_stride);
}

/* A part of dW: these taps, rows `from`..`from + channels`, columns `column`..`column + columns`. Whole tiles of each. */
struct part {
    int64_t tap, taps, from, channels, column, columns;
};

/* Up to LONG_CHUNK pairs of a tap. */
static void add_chunk(const struct fip_grad *q, const struct part *part, int64_t tap, int64_t pair, int64_t count) {
    static const uint16_t zeros[WIDE];
    float left[WIDE * LONG_CHUNK / 2] __attribute__((aligned(64))), right[WIDE * LONG_CHUNK / 2] __attribute__((aligned(64)));
    int64_t channels = part->channels, columns = part->columns, steps = (count + 31) / 32 * 16;
    const uint16_t *x[LONG_CHUNK], *g[LONG_CHUNK];
    for (int64_t p = 0; p < 2 * steps; p++) {
        x[p] = p < count ? (const uint16_t *)ROW_OF(q, q->map.in_rows[pair + p], q->cin / 2) + part->from : zeros;
        g[p] = p < count ? (const uint16_t *)q->grad + q->map.out_rows[pair + p] * q->stride + part->column : zeros;
    }
    for (int64_t step = 0; step < steps; step += 16) {
        turn(x + 2 * step, channels, left + step * channels);
        for (int64_t s = step; s < step + 16; s++) tangle(g[2 * s], g[2 * s + 1], columns, right + s * columns);
    }
    int begins = pair == q->map.starts[tap], ends = pair + count == q->map.starts[tap + 1];
    int past = begins && q->cin * q->stride >= PAST && ((uintptr_t)q->out & 63) == 0;
    float tangled[32 * 32] __attribute__((aligned(64)));
    for (int64_t i = 0; i < channels; i += 32)
        for (int64_t j = 0; j < columns; j += 32) {
            float *sums = q->out + (tap * q->cin + part->from + i) * q->stride + part->column + j;
            int rows = i + 32 <= channels, more = j + 32 <= columns;
            float *to = ends && more ? tangled : sums;
            int64_t to_stride = ends && more ? 32 : q->stride;
            if (rows && more)
                add_products(left + i * 16, channels, right + j, columns, steps, sums, q->stride, to, to_stride, begins, 1, 1);
            else
                add_products(left + i * 16, channels, right + j, columns, steps, sums, q->stride, to, to_stride, begins, rows, more);
            if (ends && more) untangle(tangled, rows ? 32 : 16, sums, q->stride, past);
        }
}

/* Block of output rows after block, so that rows which several taps read are still near; the blocks are the same for all threads. */
static void gradient_of_tiles(const struct fip_grad *q, const struct part *part) {
    for (int64_t tap = part->tap; tap < part->tap + part->taps; tap++)
        if (q->map.starts[tap] == q->map.starts[tap + 1])
            for (int64_t row = part->from; row < part->from + part->channels; row++)
                memset(q->out + (tap * q->cin + row) * q->stride + part->column, 0, (size_t)part->columns * sizeof(float));
    for (int64_t row = 0; row < q->map.num_out; row += GRAD_BLOCK)
        for (int64_t tap = part->tap; tap < part->tap + part->taps; tap++) {
            int64_t start = q->map.starts[tap], count = q->map.starts[tap + 1] - start;
            const int32_t *rows = q->map.out_rows + start;
            int64_t pair = lower_bound(rows, count, row), end = pair + lower_bound(rows + pair, count - pair, row + GRAD_BLOCK);
            for (; pair < end; pair += LONG_CHUNK) add_chunk(q, part, tap, start + pair, at_most(end - pair, LONG_CHUNK));
        }
    _mm_sfence();
}

static void gradient_by_tiles(const struct fip_grad *q) {
    int64_t wides = (q->stride + WIDE - 1) / WIDE, shares = (q->cin + WIDE - 1) / WIDE, taps = q->map.taps;
    if (q->threads > 1) taps = (taps * wides * shares + PARTS * q->threads - 1) / (PARTS * q->threads);
    taps = at_most(taps, q->map.taps);
    int64_t groups = (q->map.taps + taps - 1) / taps;
#pragma omp parallel for schedule(dynamic) num_threads(q->threads) if (q->threads > 1)
    for (int64_t item = 0; item < groups * wides * shares; item++) {
        int64_t from = item % shares * WIDE, column = item / shares % wides * WIDE, tap = item / shares / wides * taps;
        struct part part = {tap, at_most(q->map.taps - tap, taps), from, at_most(q->cin - from, WIDE), column, at_most(q->stride - column, WIDE)};
        begin_tiles(16);
        gradient_of_tiles(q, &part);
        end_tiles();
    }
}
