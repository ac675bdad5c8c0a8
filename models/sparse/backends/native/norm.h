/* What kernels.c needs to normalise: batch norm, + residual, ReLU, and the way back, each in as few passes over the features as it takes.

Rows are cut into blocks whose size depends on the number of channels alone. What the blocks add up is added in their order, so that
the number of threads changes nothing. */
#define NORM_BLOCK 8192     /* features of a block, which are still in a cache when they are read again ... */
#define NORM_ROWS 64        /* ... and its fewest rows, so that what is kept of blocks is little beside them */
#define TOGETHER 64         /* channels of which blocks are put together at once */
#define NORM_PARALLEL 65536 /* features from which on threads are worth their start */
#define COLUMNS 4           /* vectors of a row whose sums are in registers together */

typedef int32_t mask __attribute__((vector_size(4 * W)));
typedef uint8_t marks __attribute__((vector_size(W), aligned(1), may_alias));

struct norm_blocks {
    int64_t rows, count;
};

static struct norm_blocks norm_blocks(int64_t rows, int64_t channels) {
    int64_t size = channels * NORM_ROWS < NORM_BLOCK ? NORM_BLOCK / channels : NORM_ROWS;
    return (struct norm_blocks){size, (rows + size - 1) / size};
}

/* Floats that `scratch` below must have room for. */
static int64_t norm_scratch(int64_t rows, int64_t channels) { return 2 * norm_blocks(rows, channels).count * channels; }

/* A vector, or what is left of a row. */
ALWAYS vec load_of(const float *from, int64_t left) {
    if (left >= W) return load(from);
    vec some = {0};
    memcpy(&some, from, (size_t)left * sizeof(float));
    return some;
}

ALWAYS void store_of(float *to, int64_t left, vec value) {
    if (left >= W)
        store(to, value);
    else
        memcpy(to, &value, (size_t)left * sizeof(float));
}

ALWAYS vec where(mask yes, vec value) { return (vec)((mask)value & yes); }

/* middle[c] = mean over rows of x. */
ALWAYS void mean_of_block(const float *x, int64_t rows, int64_t channels, float *middle, const int vecs, int64_t column) {
    vec sum[COLUMNS] = {{0}};
    for (int64_t row = 0; row < rows; row++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) sum[v] += load_of(x + row * channels + column + v * W, channels - column - v * W);
    for (int v = 0; v < vecs; v++) store_of(middle + column + v * W, channels - column - v * W, sum[v] / splat((float)rows));
}

/* squares[c] = sum over rows of the squares of x less its mean; middle[c], the mean, is put right by what that sum rounded away. */
ALWAYS void squares_of_block(const float *x, int64_t rows, int64_t channels, float *middle, float *squares, const int vecs, int64_t column) {
    vec sum[COLUMNS] = {{0}}, rest[COLUMNS] = {{0}}, centre[COLUMNS] = {{0}};
    for (int v = 0; v < vecs; v++) centre[v] = load_of(middle + column + v * W, channels - column - v * W);
    for (int64_t row = 0; row < rows; row++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) {
            vec off = load_of(x + row * channels + column + v * W, channels - column - v * W) - centre[v];
            rest[v] += off;
            sum[v] += off * off;
        }
    for (int v = 0; v < vecs; v++) {
        vec off = rest[v] / splat((float)rows);
        store_of(middle + column + v * W, channels - column - v * W, centre[v] + off);
        store_of(squares + column + v * W, channels - column - v * W, sum[v] - off * rest[v]);
    }
}

static void statistics_of_block(const float *x, int64_t rows, int64_t channels, float *middle, float *squares) {
    int64_t column = 0;
    for (; column + COLUMNS * W <= channels; column += COLUMNS * W) mean_of_block(x, rows, channels, middle, COLUMNS, column);
    for (; column < channels; column += W) mean_of_block(x, rows, channels, middle, 1, column);
    for (column = 0; column + COLUMNS * W <= channels; column += COLUMNS * W) squares_of_block(x, rows, channels, middle, squares, COLUMNS, column);
    for (; column < channels; column += W) squares_of_block(x, rows, channels, middle, squares, 1, column);
}

/* Mean and biased variance of each channel. Deviations are taken from the mean of their block, blocks put together in double. */
static void norm_statistics(const float *x, int64_t rows, int64_t channels, float *scratch, float *mean, float *variance, int32_t threads) {
    struct norm_blocks blocks = norm_blocks(rows, channels);
#pragma omp parallel for num_threads(threads) if (threads > 1 && rows * channels > NORM_PARALLEL)
    for (int64_t block = 0; block < blocks.count; block++) {
        int64_t first = block * blocks.rows, count = at_most(blocks.rows, rows - first);
        float *middle = scratch + 2 * block * channels;
        statistics_of_block(x + first * channels, count, channels, middle, middle + channels);
    }
    for (int64_t from = 0; from < channels; from += TOGETHER) {
        double middle[TOGETHER] = {0}, squares[TOGETHER] = {0}, seen = 0;
        int64_t some = at_most(TOGETHER, channels - from);
        for (int64_t block = 0; block < blocks.count; block++) {
            const float *means = scratch + 2 * block * channels + from, *deviations = means + channels;
            double here = (double)at_most(blocks.rows, rows - block * blocks.rows), share = here / (seen + here), weight = seen * share;
            for (int64_t c = 0; c < some; c++) {
                double off = means[c] - middle[c];
                squares[c] += deviations[c] + off * off * weight;
                middle[c] += off * share;
            }
            seen += here;
        }
        for (int64_t c = 0; c < some; c++) {
            mean[from + c] = (float)middle[c];
            variance[from + c] = (float)(squares[c] / (double)rows);
        }
    }
}

/* out = ReLU(x * scale + shift + residual); ReLU, residual and marks only where they are wanted. */
ALWAYS void normalise(const struct fip_norm *q, int64_t first, int64_t last, const int residual, const int relu, const int positive) {
    for (int64_t row = first; row < last; row++)
        for (int64_t c = 0; c < q->channels; c += W) {
            int64_t at = row * q->channels + c, left = q->channels - c;
            vec value = load_of(q->x + at, left) * load_of(q->scale + c, left) + load_of(q->shift + c, left);
            if (residual) value += load_of(q->residual + at, left);
            if (relu) value = where(~(value < 0), value); /* NaN stays */
            store_of(q->out + at, left, value);
            if (!positive) continue;
            marks here = __builtin_convertvector(~(value <= 0) & 1, marks);
            memcpy(q->positive + at, &here, (size_t)at_most(left, W));
        }
}

static void norm_apply(const struct fip_norm *q) {
    struct norm_blocks blocks = norm_blocks(q->rows, q->channels);
#pragma omp parallel for num_threads(q->threads) if (q->threads > 1 && q->rows * q->channels > NORM_PARALLEL)
    for (int64_t block = 0; block < blocks.count; block++) {
        int64_t first = block * blocks.rows, last = at_most(first + blocks.rows, q->rows);
        if (!q->relu)
            q->residual ? normalise(q, first, last, 1, 0, 0) : normalise(q, first, last, 0, 0, 0);
        else if (q->positive)
            q->residual ? normalise(q, first, last, 1, 1, 1) : normalise(q, first, last, 0, 1, 1);
        else
            q->residual ? normalise(q, first, last, 1, 1, 0) : normalise(q, first, last, 0, 1, 0);
    }
}

enum through { EVERYTHING, BY_RESULT, BY_MARK }; /* how it is told which features ReLU let pass */

/* Gradients before ReLU. */
ALWAYS vec before_relu(const struct fip_norm_back *q, const enum through kind, int64_t at, int64_t left) {
    vec grad = load_of(q->grad + at, left);
    if (kind == BY_RESULT) return where(~(load_of(q->result + at, left) <= 0), grad);
    if (kind == EVERYTHING) return grad;
    marks here = {0};
    memcpy(&here, q->positive + at, (size_t)at_most(left, W));
    return where(__builtin_convertvector(here, mask) != 0, grad);
}

/* Of some rows and columns: the sums of gradients before ReLU, alone and times the normalised features. */
ALWAYS void grads_of_block(const struct fip_norm_back *q, const enum through kind, int64_t first, int64_t last, float *sums, const int vecs,
                           int64_t column) {
    vec sum[COLUMNS] = {{0}}, product[COLUMNS] = {{0}}, mean[COLUMNS], inverse[COLUMNS];
    for (int v = 0; v < vecs; v++) {
        mean[v] = load_of(q->mean + column + v * W, q->channels - column - v * W);
        inverse[v] = load_of(q->inverse + column + v * W, q->channels - column - v * W);
    }
    for (int64_t row = first; row < last; row++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) {
            int64_t at = row * q->channels + column + v * W, left = q->channels - column - v * W;
            vec grad = before_relu(q, kind, at, left);
            sum[v] += grad;
            product[v] += grad * ((load_of(q->x + at, left) - mean[v]) * inverse[v]);
        }
    for (int v = 0; v < vecs; v++) {
        store_of(sums + column + v * W, q->channels - column - v * W, sum[v]);
        store_of(sums + q->channels + column + v * W, q->channels - column - v * W, product[v]);
    }
}

ALWAYS void add_grads(const struct fip_norm_back *q, const enum through kind, int64_t first, int64_t last, float *sums) {
    int64_t column = 0;
    for (; column + COLUMNS * W <= q->channels; column += COLUMNS * W) grads_of_block(q, kind, first, last, sums, COLUMNS, column);
    for (; column < q->channels; column += W) grads_of_block(q, kind, first, last, sums, 1, column);
}

/* grad_residual = gradient before ReLU; grad_x = that * scale, and by the batch + (x - mean) * slope + offset. */
ALWAYS void backward(const struct fip_norm_back *q, const enum through kind, const int by_batch, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++)
        for (int64_t c = 0; c < q->channels; c += W) {
            int64_t at = row * q->channels + c, left = q->channels - c;
            vec grad = before_relu(q, kind, at, left);
            if (q->grad_residual) store_of(q->grad_residual + at, left, grad);
            if (!q->grad_x) continue;
            grad *= load_of(q->scale + c, left);
            if (by_batch) grad += (load_of(q->x + at, left) - load_of(q->mean + c, left)) * load_of(q->slope + c, left) + load_of(q->offset + c, left);
            store_of(q->grad_x + at, left, grad);
        }
}

static enum through through_of(const struct fip_norm_back *q) { return q->result ? BY_RESULT : q->positive ? BY_MARK : EVERYTHING; }

/* grad_bias and grad_weight of a norm by the batch. */
static void norm_sums(const struct fip_norm_back *q) {
    struct norm_blocks blocks = norm_blocks(q->rows, q->channels);
    enum through kind = through_of(q);
#pragma omp parallel for num_threads(q->threads) if (q->threads > 1 && q->rows * q->channels > NORM_PARALLEL)
    for (int64_t block = 0; block < blocks.count; block++) {
        int64_t first = block * blocks.rows, last = at_most(first + blocks.rows, q->rows);
        float *sums = q->scratch + 2 * block * q->channels;
        if (kind == BY_RESULT)
            add_grads(q, BY_RESULT, first, last, sums);
        else if (kind == BY_MARK)
            add_grads(q, BY_MARK, first, last, sums);
        else
            add_grads(q, EVERYTHING, first, last, sums);
    }
    for (int64_t from = 0; from < q->channels; from += TOGETHER) {
        double sum[TOGETHER] = {0}, product[TOGETHER] = {0};
        int64_t some = at_most(TOGETHER, q->channels - from);
        for (int64_t block = 0; block < blocks.count; block++) {
            const float *sums = q->scratch + 2 * block * q->channels + from, *products = sums + q->channels;
            for (int64_t c = 0; c < some; c++) {
                sum[c] += sums[c];
                product[c] += products[c];
            }
        }
        for (int64_t c = 0; c < some; c++) {
            q->grad_bias[from + c] = (float)sum[c];
            q->grad_weight[from + c] = (float)product[c];
        }
    }
}

/* grad_x and grad_residual; slope and offset NULL where the norm is frozen. */
static void norm_back(const struct fip_norm_back *q) {
    struct norm_blocks blocks = norm_blocks(q->rows, q->channels);
    enum through kind = through_of(q);
#pragma omp parallel for num_threads(q->threads) if (q->threads > 1 && q->rows * q->channels > NORM_PARALLEL)
    for (int64_t block = 0; block < blocks.count; block++) {
        int64_t first = block * blocks.rows, last = at_most(first + blocks.rows, q->rows);
        if (kind == BY_RESULT)
            q->slope ? backward(q, BY_RESULT, 1, first, last) : backward(q, BY_RESULT, 0, first, last);
        else if (kind == BY_MARK)
            q->slope ? backward(q, BY_MARK, 1, first, last) : backward(q, BY_MARK, 0, first, last);
        else
            q->slope ? backward(q, EVERYTHING, 1, first, last) : backward(q, EVERYTHING, 0, first, last);
    }
}
