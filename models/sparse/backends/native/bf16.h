/* What kernels.c needs where the processor multiplies bfloat16 (AVX-512 BF16): products, and how factors get there. */
#include <immintrin.h>

/* The same on bfloat16 pairs: a[r] (pairs of two channels), b (pairs, vecs x W, two channels). Sums stay float32. */
ALWAYS void tile_bf16(const int rows, const int vecs, const float *const *a, const float *b, float *const *c, int64_t pairs) {
    __m512 sum[MAX_ROWS][MAX_VECS];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) sum[r][v] = _mm512_loadu_ps(c[r] + v * W);
    const float *row[MAX_ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) row[r] = a[r];
    for (int64_t k = 0; k < pairs; k++, b += vecs * W) {
        __m512bh weight[MAX_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) weight[v] = (__m512bh)_mm512_loadu_ps(b + v * W);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            __m512bh value = (__m512bh)_mm512_set1_ps(row[r][k]);
#pragma GCC unroll 4
            for (int v = 0; v < vecs; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], value, weight[v]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) _mm512_storeu_ps(c[r] + v * W, sum[r][v]);
}

/* The same as `outer` on woven rows: x (steps, SHARE) and g (steps, vecs x W), each element two pairs' values of one channel. */
ALWAYS void outer_bf16(const int rows, const int vecs, const float *x, const float *g, int64_t steps, float *out, int64_t stride) {
    __m512 sum[MAX_ROWS][MAX_VECS];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) sum[r][v] = _mm512_loadu_ps(out + r * stride + v * W);
    for (int64_t p = 0; p < steps; p++, x += SHARE, g += vecs * W) {
        __m512bh grad[MAX_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) grad[v] = (__m512bh)_mm512_loadu_ps(g + v * W);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            __m512bh value = (__m512bh)_mm512_set1_ps(x[r]);
#pragma GCC unroll 4
            for (int v = 0; v < vecs; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], value, grad[v]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) _mm512_storeu_ps(out + r * stride + v * W, sum[r][v]);
}

/* Two rows as bfloat16, channel by channel side by side: to[c] = (a[c], b[c]); b may be NULL for zeros. */
static void weave(const float *a, const float *b, int64_t channels, float *to) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3,
                                           18, 2, 17, 1, 16, 0);
    for (int64_t c = 0; c < channels; c += 16) {
        __mmask16 here = channels - c < 16 ? (__mmask16)((1u << (channels - c)) - 1) : 0xffff;
        __m512 first = _mm512_maskz_loadu_ps(here, a + c), second = b ? _mm512_maskz_loadu_ps(here, b + c) : _mm512_setzero_ps();
        __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
        _mm512_storeu_ps(to + c, (__m512)_mm512_permutexvar_epi16(order, both));
    }
}

/* The same of rows that are bfloat16 already. */
static void weave_low(const uint16_t *a, const uint16_t *b, int64_t channels, float *to) {
    for (int64_t c = 0; c < channels; c += 16) {
        __mmask16 here = channels - c < 16 ? (__mmask16)((1u << (channels - c)) - 1) : 0xffff;
        __m512i first = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(here, a + c));
        __m512i second = b ? _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(here, b + c)) : _mm512_setzero_si512();
        _mm512_storeu_ps(to + c, (__m512)_mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
    }
}

/* Rows and columns change places: 16 vectors of 16 values of 32 bits. */
static void transpose(__m512i row[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            row[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            row[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    for (int i = 0; i < 16; i += 8)
        for (int j = 0; j < 4; j++) {
            t[i + j] = _mm512_shuffle_i32x4(row[i + j], row[i + j + 4], 0x88);
            t[i + j + 4] = _mm512_shuffle_i32x4(row[i + j], row[i + j + 4], 0xdd);
        }
    for (int j = 0; j < 8; j++) {
        row[j] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0x88);
        row[j + 8] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0xdd);
    }
}

/* The first of 16 lanes that are left of `count`. */
static __mmask16 lanes(int64_t count) { return count >= 16 ? 0xffff : count <= 0 ? 0 : (__mmask16)((1u << count) - 1); }

/* Values `from`..`from + 32` of a row of `count`, as bfloat16; zeros past its end. */
static __m512i rounded(const float *row, int64_t from, int64_t count) {
    __m512 first = _mm512_maskz_loadu_ps(lanes(count - from), row + from);
    __m512 second = _mm512_maskz_loadu_ps(lanes(count - from - 16), row + from + 16);
    return (__m512i)_mm512_cvtne2ps_pbh(second, first);
}

/* rows (count, channels) float -> (count, channels rounded up to even) bfloat16, a last odd channel beside a zero. */
static void round_bf16(const float *from, int64_t count, int64_t channels, uint16_t *to, int32_t threads) {
    int64_t padded = channels + (channels & 1);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < count; row++)
        for (int64_t c = 0; c < channels; c += 32) {
            int64_t left = padded - c;
            __mmask32 here = left >= 32 ? 0xffffffffu : (1u << left) - 1;
            _mm512_mask_storeu_epi16(to + row * padded + c, here, rounded(from + row * channels, c, channels));
        }
}

/* As fip_sum_lines, rounded at once: out (lines, channels rounded up to even) bfloat16. */
static void sum_lines_bf16(const float *feats, int64_t channels, const int32_t *starts, const int32_t *rows, int64_t lines, uint16_t *out,
                           int32_t threads) {
    int64_t padded = channels + (channels & 1);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t line = 0; line < lines; line++)
        for (int64_t c = 0; c < padded; c += 32) {
            __mmask16 here = lanes(channels - c), more = lanes(channels - c - 16);
            __m512 first = _mm512_setzero_ps(), second = first;
            for (int64_t p = starts[line]; p < starts[line + 1]; p++) {
                const float *row = feats + rows[p] * channels + c;
                first = _mm512_add_ps(first, _mm512_maskz_loadu_ps(here, row));
                second = _mm512_add_ps(second, _mm512_maskz_loadu_ps(more, row + 16));
            }
            __mmask32 kept = padded - c >= 32 ? 0xffffffffu : (1u << (padded - c)) - 1;
            _mm512_mask_storeu_epi16(out + line * padded + c, kept, (__m512i)_mm512_cvtne2ps_pbh(second, first));
        }
}

/* One tap of a panel of columns: from (cin, cout), or (cout, cin) with `transposed`, to (steps, columns), each two channels of a column. */
static void pack_panel(const float *from, int64_t cin, int64_t cout, int transposed, int64_t column, int64_t columns, float *to) {
    int64_t real = cout - column < columns ? cout - column : columns;
    if (!transposed) {
        for (int64_t c = 0; c < cin; c += 2, to += columns)
            weave(from + c * cout + column, c + 1 < cin ? from + (c + 1) * cout + column : 0, real, to);
        return;
    }
    for (int64_t j = 0; j < columns; j += 16)
        for (int64_t c = 0; c < cin; c += 32) {
            __m512i row[16];
            for (int i = 0; i < 16; i++)
                row[i] = j + i < real ? rounded(from + (column + j + i) * cin, c, cin) : _mm512_setzero_si512();
            transpose(row);
            for (int64_t step = 0; step < 16 && c + 2 * step < cin; step++)
                _mm512_storeu_si512((void *)(to + (c / 2 + step) * columns + j), row[step]);
        }
}

/* As fip_pack, but in bfloat16, two channels of a column side by side. */
static void pack_bf16(const float *weight, int64_t taps, int64_t cin, int64_t cout, int32_t transposed, void *to, int32_t threads) {
    int64_t padded = (cout + W - 1) / W * W, panels = (padded + PANEL - 1) / PANEL, steps = (cin + 1) / 2;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t item = 0; item < panels * taps; item++) {
        int64_t column = item / taps * PANEL, tap = item % taps, columns = padded - column < PANEL ? padded - column : PANEL;
        float *out = (float *)to + (column * taps + tap * columns) * steps;
        pack_panel(weight + tap * cin * cout, cin, cout, transposed, column, columns, out);
    }
}
