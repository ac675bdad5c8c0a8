/* What kernels.c needs where the processor multiplies tiles of bfloat16 (AMX): 16 rows of 32 channels by 32 channels of 16 columns.

Of the eight tiles 0 to 3 are sums (2 x 2), 4 and 5 rows of the left factor, 6 and 7 columns of the right one. */
#define TILE_ROWS 32 /* pairs of a convolution that are multiplied at once */
#define MOST_STEPS 1024
#define LONG_CHUNK 256 /* pairs of a weight gradient between two visits to its sums */
#define WIDE 256       /* its columns for which the left factor is turned once */

static const int TILE_MOST[5] = {0, TILE_ROWS, TILE_ROWS, TILE_ROWS, TILE_ROWS};

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

/* As `tile_bf16`, for up to TILE_ROWS rows: they are laid side by side first, and sums go to their rows at the end. */
static void multiply_tiles(int vecs, int rows, const float *const *a, const float *b, float *const *c, int64_t steps) {
    float left[TILE_ROWS * MOST_STEPS] __attribute__((aligned(64)));
    float sums[TILE_ROWS * PANEL] __attribute__((aligned(64)));
    int tile = tile_steps(steps);
    for (int r = 0; r < rows; r++)
        for (int64_t k = 0; k < steps; k += tile) {
            float *to = left + k * TILE_ROWS + r * tile;
            if (tile == 16)
                _mm512_store_ps(to, _mm512_loadu_ps(a[r] + k));
            else
                _mm256_store_ps(to, _mm256_loadu_ps(a[r] + k));
        }
    for (int r = rows; r & 15; r++) /* what a tile has beside them */
        for (int64_t k = 0; k < steps; k += tile) memset(left + k * TILE_ROWS + r * tile, 0, sizeof(float) * (size_t)tile);
    for (int v = 0; v < vecs; v += 2) {
        int more_rows = rows > 16, more_columns = v + 1 < vecs;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        if (more_rows && more_columns)
            multiply_stretch(left, b + v * W, steps, tile, vecs * W, 1, 1);
        else
            multiply_stretch(left, b + v * W, steps, tile, vecs * W, more_rows, more_columns);
        _tile_stored(0, sums + v * W, 4 * PANEL);
        if (more_columns) _tile_stored(1, sums + (v + 1) * W, 4 * PANEL);
        if (more_rows) _tile_stored(2, sums + 16 * PANEL + v * W, 4 * PANEL);
        if (more_rows && more_columns) _tile_stored(3, sums + 16 * PANEL + (v + 1) * W, 4 * PANEL);
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vecs; v++) store(c[r] + v * W, load(c[r] + v * W) + load(sums + r * PANEL + v * W));
}

/* Rows of some pairs of a tap, woven and turned: from (steps, 2) rows of `channels` to stretches of 16 steps, each (channels, 16). */
static void turn(const float *const *x, int64_t pairs, int64_t channels, float *to) {
    for (int64_t first = 0; first < pairs; first += 32, to += 16 * channels)
        for (int64_t c = 0; c < channels; c += 16) {
            __m512i row[16];
            for (int64_t step = 0; step < 16; step++) {
                int64_t p = first + 2 * step;
                float both[16] __attribute__((aligned(64)));
                if (p < pairs) weave(x[p] + c, p + 1 < pairs ? x[p + 1] + c : 0, 16, both);
                row[step] = p < pairs ? _mm512_load_si512((const void *)both) : _mm512_setzero_si512();
            }
            transpose(row);
            for (int64_t i = 0; i < 16; i++) _mm512_store_si512((void *)(to + (c + i) * 16), row[i]);
        }
}

/* out (16 or 32, stride) += left times right, for the pairs of a chunk. left: stretches of (channels, 16); right (steps, columns). */
ALWAYS void add_products(const float *left, int64_t channels, const float *right, int64_t columns, int64_t steps, float *out, int64_t stride,
                         int second_rows, int second_columns) {
    _tile_loadd(0, out, 4 * stride);
    if (second_columns) _tile_loadd(1, out + W, 4 * stride);
    if (second_rows) _tile_loadd(2, out + 16 * stride, 4 * stride);
    if (second_rows && second_columns) _tile_loadd(3, out + 16 * stride + W, 4 * stride);
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
    _tile_stored(0, out, 4 * stride);
    if (second_columns) _tile_stored(1, out + W, 4 * stride);
    if (second_rows) _tile_stored(2, out + 16 * stride, 4 * stride);
    if (second_rows && second_columns) _tile_stored(3, out + 16 * stride + W, 4 * stride);
}

/* Rows `from`..`to` of dW of one tap, in the columns `column`..`column + columns`. Whole tiles of each. */
static void gradient_of_tiles(const struct fip_grad *q, int64_t tap, int64_t from, int64_t to, int64_t column, int64_t columns) {
    float left[SHARE * LONG_CHUNK / 2] __attribute__((aligned(64))), right[WIDE * LONG_CHUNK / 2] __attribute__((aligned(64)));
    float *out = q->out + (tap * q->cin + from) * q->stride + column;
    int64_t channels = to - from;
    for (int64_t row = 0; row < channels; row++) memset(out + row * q->stride, 0, (size_t)columns * sizeof(float));
    for (int64_t pair = q->map.starts[tap]; pair < q->map.starts[tap + 1]; pair += LONG_CHUNK) {
        int64_t count = q->map.starts[tap + 1] - pair < LONG_CHUNK ? q->map.starts[tap + 1] - pair : LONG_CHUNK;
        int64_t steps = (count + 31) / 32 * 16;
        const float *x[LONG_CHUNK];
        for (int64_t p = 0; p < count; p++) x[p] = row_of(q, q->map.in_rows[pair + p]) + from;
        turn(x, count, channels, left);
        for (int64_t step = 0; step < steps; step++) {
            const int32_t *rows = q->map.out_rows + pair + 2 * step;
            float *woven = right + step * columns;
            if (2 * step < count)
                weave(q->grad + rows[0] * q->stride + column, 2 * step + 1 < count ? q->grad + rows[1] * q->stride + column : 0, columns, woven);
            else
                memset(woven, 0, (size_t)columns * sizeof(float));
        }
        for (int64_t i = 0; i < channels; i += 32)
            for (int64_t j = 0; j < columns; j += 32) {
                float *sums = out + i * q->stride + j;
                if (i + 32 <= channels && j + 32 <= columns)
                    add_products(left + i * 16, channels, right + j, columns, steps, sums, q->stride, 1, 1);
                else
                    add_products(left + i * 16, channels, right + j, columns, steps, sums, q->stride, i + 32 <= channels, j + 32 <= columns);
            }
    }
}

static void gradient_by_tiles(const struct fip_grad *q) {
    int64_t wides = (q->stride + WIDE - 1) / WIDE, parts = (q->cin + SHARE - 1) / SHARE, items = q->map.taps * wides * parts;
#pragma omp parallel for schedule(dynamic) num_threads(q->threads) if (q->threads > 1)
    for (int64_t item = 0; item < items; item++) {
        int64_t from = item % parts * SHARE, column = item / parts % wides * WIDE, tap = item / parts / wides;
        begin_tiles(16);
        gradient_of_tiles(q, tap, from, from + SHARE < q->cin ? from + SHARE : q->cin, column, column + WIDE < q->stride ? WIDE : q->stride - column);
        end_tiles();
    }
}
