/* Everything that needs no particular instruction set: packing weights, sums of rows. */
#include "fip.h"
#include <string.h>

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
