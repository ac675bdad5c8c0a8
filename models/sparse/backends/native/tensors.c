/* Everything that needs no particular instruction set: packing weights, sums of rows, rounding to bfloat16. */
#include "fip.h"
#include <string.h>

/* Nearest bfloat16, ties to even; NaN stays NaN. */
static uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 64);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

/* rows (count, channels) float -> (count, channels rounded up to even) bfloat16, a last odd channel beside a zero. */
void fip_round(const float *from, int64_t count, int64_t channels, uint16_t *to, int32_t threads) {
    int64_t padded = channels + (channels & 1);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < count; row++) {
        for (int64_t c = 0; c < channels; c++) to[row * padded + c] = to_bf16(from[row * channels + c]);
        if (padded > channels) to[row * padded + channels] = 0;
    }
}

/* weight (K, Cin, Cout), or (K, Cout, Cin) with `transpose`, -> panels of columns, in each all taps, in each Cin rows of the
panel's columns; columns past Cout are zero. Last panel: as narrow as `width` allows. */
void fip_pack(const float *weight, int64_t taps, int64_t cin, int64_t cout, int32_t transpose, int32_t panel, int32_t width, float *to,
              int32_t threads) {
    int64_t padded = (cout + width - 1) / width * width, panels = (padded + panel - 1) / panel;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t item = 0; item < panels * taps; item++) {
        int64_t column = item / taps * panel, tap = item % taps;
        int64_t columns = padded - column < panel ? padded - column : panel, real = cout - column < columns ? cout - column : columns;
        const float *from = weight + tap * cin * cout;
        float *out = to + column * taps * cin + tap * cin * columns;
        if (real < columns) memset(out, 0, (size_t)(cin * columns) * sizeof(float));
        if (!transpose) {
            for (int64_t c = 0; c < cin; c++) memcpy(out + c * columns, from + c * cout + column, (size_t)real * sizeof(float));
            continue;
        }
        for (int64_t c0 = 0; c0 < cin; c0 += 64) /* as much as the first-level cache holds of both sides */
            for (int64_t j = 0; j < real; j++) {
                const float *row = from + (column + j) * cin;
                int64_t last = c0 + 64 < cin ? c0 + 64 : cin;
                for (int64_t ahead = c0; j + 4 < real && ahead < last; ahead += 16) __builtin_prefetch(row + 4 * cin + ahead);
                for (int64_t c = c0; c < last; c++) out[c * columns + j] = row[c];
            }
    }
}

/* One panel in bfloat16: from (taps, cin, columns) float to (taps, (cin + 1) / 2, columns, 2), two channels of a column side by side. */
static void interleave(const float *from, int64_t taps, int64_t cin, int64_t columns, uint16_t *to) {
    for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t c = 0; c < cin; c += 2)
            for (int64_t j = 0; j < columns; j++) {
                const float *at = from + (tap * cin + c) * columns + j;
                *to++ = to_bf16(at[0]);
                *to++ = c + 1 < cin ? to_bf16(at[columns]) : 0;
            }
}

/* What fip_pack made, rounded to bfloat16. */
void fip_pack_bf16(const float *packed, int64_t taps, int64_t cin, int64_t cout, int32_t panel, int32_t width, uint16_t *to) {
    int64_t padded = (cout + width - 1) / width * width;
    for (int64_t column = 0; column < padded; column += panel) {
        int64_t columns = padded - column < panel ? padded - column : panel;
        interleave(packed + column * taps * cin, taps, cin, columns, to + column * taps * (cin + (cin & 1)));
    }
}

/* out (E, channels): line e is the sum of the rows starts[e] to starts[e + 1]. */
void fip_sum_lines(const float *feats, int64_t channels, const int32_t *starts, const int32_t *rows, int64_t lines, float *out, int32_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t line = 0; line < lines; line++) {
        const int32_t *row = rows + starts[line];
        int64_t count = starts[line + 1] - starts[line];
        const float *a = feats + row[0] * channels, *b = feats + row[1] * channels;
        float *sum = out + line * channels;
        if (count == 2) {
            for (int64_t c = 0; c < channels; c++) sum[c] = a[c] + b[c];
            continue;
        }
        const float *third = feats + row[2] * channels;
        for (int64_t c = 0; c < channels; c++) sum[c] = a[c] + b[c] + third[c];
        for (int64_t more = 3; more < count; more++)
            for (int64_t c = 0; c < channels; c++) sum[c] += feats[row[more] * channels + c];
    }
}
