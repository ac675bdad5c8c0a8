/* Kernel maps by merging sorted lists: sites ascend by key, and so do the keys that a tap asks for.

A key counts cells z fastest, then y, x and cloud, of a box wide enough that key + offset never lands in a neighbouring column. */
#include "fip.h"
#include <stdlib.h>
#include <string.h>

/* keys[i] of coords (count, 4) [b, x, y, z] scaled by `stride`, less `low`; returns whether they ascend strictly. */
int32_t fip_keys(const int32_t *coords, int64_t count, int64_t stride, const int64_t low[3], const int64_t size[3], int64_t *keys) {
    int32_t ascending = 1;
    for (int64_t i = 0; i < count; i++) {
        const int32_t *c = coords + 4 * i;
        keys[i] = ((c[0] * size[0] + (c[1] * stride - low[0])) * size[1] + (c[2] * stride - low[1])) * size[2] + (c[3] * stride - low[2]);
        if (i && keys[i] <= keys[i - 1]) ascending = 0;
    }
    return ascending;
}

/* Pairs of `taps` neighbouring taps (offsets key_offset, + 1, ...) of one column: for each tap, rows found and rows they were found
for, a stretch of `asked` a tap, and their number. */
static void column(const int64_t *keys, int64_t count, const int64_t *wanted, int64_t asked, int64_t key_offset, int64_t taps,
                   int32_t *in_rows, int32_t *out_rows, int64_t *found) {
    int64_t at = 0;
    for (int64_t tap = 0; tap < taps; tap++) found[tap] = 0;
    for (int64_t row = 0; row < asked; row++) {
        int64_t want = wanted[row] + key_offset;
        while (at < count && keys[at] < want) at++;
        for (int64_t near = at; near < count && keys[near] - want < taps; near++) {
            int64_t tap = keys[near] - want, place = tap * asked + found[tap]++;
            in_rows[place] = (int32_t)near;
            out_rows[place] = (int32_t)row;
        }
    }
}

/* The first `taps` taps of a kernel, `side` to a column whose first has the key offset offsets[column]; in_rows, out_rows (taps, asked). */
void fip_columns(const int64_t *keys, int64_t count, const int64_t *wanted, int64_t asked, const int64_t *offsets, int64_t taps, int64_t side,
                 int32_t *in_rows, int32_t *out_rows, int64_t *found, int32_t threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (int64_t first = 0; first < taps; first += side) {
        int64_t here = taps - first < side ? taps - first : side;
        column(keys, count, wanted, asked, offsets[first / side], here, in_rows + first * asked, out_rows + first * asked, found + first);
    }
}

#define MOST 8 /* taps that share a filter: 2 or 3 in a line, 8 in a cell of 2 x 2 x 2 */

/* The map of a tied filter. Taps `members` (groups, width <= MOST, in the order of their offsets) of the whole map share a filter. Writes
the pairs of the groups (in_rows, out_rows, at most P), starts (groups + 1), and the lines: line_rows (at most P), line_starts (at most
P + 1). Returns the number of lines, or -1 when memory ran out.

A line of up to three is known by its first member and by which of the two next places are taken, so that pairs which read the same rows
share it. `disjoint`: no two pairs can read the same rows, as where cells of the input do not overlap; wider groups must be that. */
int64_t fip_tie(const struct fip_map *whole, const int32_t *members, int64_t groups, int64_t width, int32_t disjoint, int32_t *in_rows,
                int32_t *out_rows, int64_t *starts, int32_t *line_starts, int32_t *line_rows) {
    size_t identities = disjoint ? 1 : 3 * (size_t)whole->num_in + 1;
    int32_t *known = malloc(identities * sizeof(int32_t)), fresh;
    if (!known) return -1;
    memset(known, 0xff, identities * sizeof(int32_t));
    int64_t pair = 0, lines = 0, used = 0;
    line_starts[0] = 0;
    for (int64_t group = 0; group < groups; group++) {
        const int32_t *in[MOST], *out[MOST];
        int64_t left[MOST] = {0};
        starts[group] = pair;
        for (int64_t m = 0; m < width; m++) {
            int32_t tap = members[group * width + m];
            in[m] = whole->in_rows + whole->starts[tap];
            out[m] = whole->out_rows + whole->starts[tap];
            left[m] = whole->starts[tap + 1] - whole->starts[tap];
        }
        for (;;) {
            int32_t next = INT32_MAX, rows[MOST];
            for (int64_t m = 0; m < width; m++)
                if (left[m] && *out[m] < next) next = *out[m];
            if (next == INT32_MAX) break;
            int64_t count = 0, first = 0, pattern = 0;
            for (int64_t m = 0; m < width; m++) {
                if (!left[m] || *out[m] != next) continue;
                if (count) pattern |= m - first; /* 1, 2 or both */
                else first = m;
                rows[count++] = *in[m]++;
                out[m]++;
                left[m]--;
            }
            out_rows[pair] = next;
            if (count == 1) {
                in_rows[pair++] = rows[0];
                continue;
            }
            fresh = -1;
            int32_t *line = disjoint ? &fresh : known + rows[0] * (int64_t)3 + pattern - 1;
            if (*line < 0) {
                *line = (int32_t)lines++;
                for (int64_t m = 0; m < count; m++) line_rows[used++] = rows[m];
                line_starts[lines] = (int32_t)used;
            }
            in_rows[pair++] = (int32_t)whole->num_in + *line;
        }
    }
    starts[groups] = pair;
    free(known);
    return lines;
}

static int64_t halved(int64_t value, int64_t stride) { return value >= 0 ? value / stride : -((-value + stride - 1) / stride); }

/* unique(floor(c / stride)), ascending: sites (at most count, 4) and the row of every input row. Returns their number, -1 when memory ran
out, -3 when a cloud has a negative number, -2 when the box around them has more than 2^62 cells. Cells are sorted by key, eleven bits at a time, which leaves equal keys side by side. */
int64_t fip_downsample(const int32_t *coords, int64_t count, int64_t stride, int32_t *sites, int64_t *parents) {
    if (!count) return 0;
    int64_t low[3], high[3], clouds = 0;
    for (int64_t d = 0; d < 3; d++) low[d] = high[d] = coords[1 + d];
    for (int64_t i = 0; i < count; i++) {
        const int32_t *c = coords + 4 * i;
        if (c[0] < 0) return -3;
        if (c[0] > clouds) clouds = c[0];
        for (int64_t d = 0; d < 3; d++) {
            if (c[1 + d] < low[d]) low[d] = c[1 + d];
            if (c[1 + d] > high[d]) high[d] = c[1 + d];
        }
    }
    int64_t size[3];
    for (int64_t d = 0; d < 3; d++) {
        low[d] = halved(low[d], stride);
        size[d] = halved(high[d], stride) - low[d] + 1;
    }
    if ((double)(clouds + 1) * (double)size[0] * (double)size[1] * (double)size[2] > 0x1p62) return -2;
    struct item { uint64_t key; int64_t row; } *items = malloc((size_t)count * 2 * sizeof *items), *other = items + count;
    if (!items) return -1;
    for (int64_t i = 0; i < count; i++) {
        const int32_t *c = coords + 4 * i;
        int64_t x = halved(c[1], stride) - low[0], y = halved(c[2], stride) - low[1], z = halved(c[3], stride) - low[2];
        items[i].key = (uint64_t)(((c[0] * size[0] + x) * size[1] + y) * size[2] + z);
        items[i].row = i;
    }
    struct item *source = items;
    uint64_t most = (uint64_t)(clouds + 1) * (uint64_t)size[0] * (uint64_t)size[1] * (uint64_t)size[2] - 1;
    for (int shift = 0; shift < 64 && most >> shift; shift += 11) {
        int64_t places[2048] = {0}, place = 0;
        for (int64_t i = 0; i < count; i++) places[source[i].key >> shift & 2047]++;
        for (int64_t digit = 0; digit < 2048; digit++) {
            int64_t here = places[digit];
            places[digit] = place;
            place += here;
        }
        for (int64_t i = 0; i < count; i++) other[places[source[i].key >> shift & 2047]++] = source[i];
        struct item *swap = source;
        source = other;
        other = swap;
    }
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++) {
        if (!i || source[i].key != source[i - 1].key) {
            uint64_t key = source[i].key;
            int32_t *site = sites + 4 * found++;
            site[3] = (int32_t)((int64_t)(key % (uint64_t)size[2]) + low[2]);
            key /= (uint64_t)size[2];
            site[2] = (int32_t)((int64_t)(key % (uint64_t)size[1]) + low[1]);
            key /= (uint64_t)size[1];
            site[1] = (int32_t)((int64_t)(key % (uint64_t)size[0]) + low[0]);
            site[0] = (int32_t)(key / (uint64_t)size[0]);
        }
        parents[source[i].row] = found - 1;
    }
    free(items);
    return found;
}
