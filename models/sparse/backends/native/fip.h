/* What the parts of the native engine share. Plain C with a plain C interface: nothing here knows Python or torch.

S input rows, T output rows, K taps, P pairs of a tap, C channels. Features are row-major float32. */
#ifndef FIP_H
#define FIP_H
#include <stdint.h>

/* Pairs of all taps, tap after tap; within a tap out_rows ascend. An in_row >= num_in is row in_row - num_in of `lines`. */
struct fip_map {
    const int32_t *in_rows, *out_rows;
    const int64_t *starts; /* (K + 1) */
    int64_t taps, num_in, num_out;
};

/* One convolution. Rows of `out` are `out_stride` >= Cout apart, a multiple of the vector width; `packed` is as fip_pack left it. */
struct fip_conv {
    struct fip_map map;
    const void *feats, *lines; /* (S, Cin), (E, Cin): float, or bfloat16 where the kernel multiplies those */
    const void *packed;        /* or NULL where `packs` says so */
    const float *weight;       /* what it was packed from, for such a one */
    const float *bias, *residual; /* (Cout) and (T, Cout), or NULL */
    float *out;                   /* (T, out_stride) */
    int64_t cin, cout, out_stride;
    int32_t transposed, relu, threads; /* transposed: the weight is (K, Cout, Cin) */
};

/* dW[k] = sum over pairs of feats[i]^T grad[o]; `grad` and `out` rows are `stride` apart, a multiple of the vector width. */
struct fip_grad {
    struct fip_map map;
    const void *feats, *lines, *grad; /* (S, Cin), (E, Cin), (T, stride): float, or bfloat16, Cin rounded up to even, for such products */
    float *out;                       /* (K, Cin, stride) */
    int64_t cin, stride;
    int32_t threads;
};

/* out = ReLU(x * scale + shift + residual), row by row, each channel with its own scale and shift. */
struct fip_norm {
    const float *x, *scale, *shift, *residual; /* (S, C), (C), (C), (S, C) or NULL */
    float *out;                                /* (S, C) */
    uint8_t *positive;                         /* (S, C), what ReLU lets pass, or NULL */
    int64_t rows, channels;
    int32_t relu, threads;
};

/* The way back through ReLU and norm. What ReLU let pass is told by its result or by marks; both NULL where there was none. */
struct fip_norm_back {
    const float *grad, *x, *result;  /* (S, C) */
    const uint8_t *positive;         /* (S, C) */
    const float *mean, *inverse;     /* (C), of the batch: mean and 1 / standard deviation */
    const float *scale;              /* (C), of the gradient */
    const float *slope, *offset;     /* (C), by the batch: of x less its mean, and alone; else NULL */
    float *grad_x, *grad_residual;   /* (S, C), or NULL where they are not wanted */
    float *grad_weight, *grad_bias;  /* (C) */
    float *scratch;                  /* as large as norm_scratch says */
    int64_t rows, channels;
    int32_t threads;
};

/* Kernels of one instruction set. panel: columns of a packed weight that lie together; width: floats of a vector. */
struct fip_kernels {
    int32_t panel, width;
    void (*conv)(const struct fip_conv *);
    void (*round)(const float *from, int64_t count, float *to, int32_t threads); /* to bfloat16, kept as float */
    void (*conv_bf16)(const struct fip_conv *); /* NULL where the instruction set has no bfloat16 products */
    int32_t (*packs)(const struct fip_conv *); /* whether conv_bf16 better packs the weight itself, as it goes; NULL where it cannot */
    void (*weight_grad)(const struct fip_grad *);
    void (*weight_grad_bf16)(const struct fip_grad *); /* NULL where the instruction set has no bfloat16 products, as the three below */
    void (*pack_bf16)(const float *weight, int64_t taps, int64_t cin, int64_t cout, int32_t transposed, void *to, int32_t threads);
    void (*round_bf16)(const float *from, int64_t count, int64_t channels, uint16_t *to, int32_t threads);
    void (*sum_lines_bf16)(const float *feats, int64_t channels, const int32_t *starts, const int32_t *rows, int64_t lines, uint16_t *out,
                           int32_t threads);
    int64_t (*norm_scratch)(int64_t rows, int64_t channels);
    void (*norm_statistics)(const float *x, int64_t rows, int64_t channels, float *scratch, float *mean, float *variance, int32_t threads);
    void (*norm_apply)(const struct fip_norm *);
    void (*norm_sums)(const struct fip_norm_back *); /* grad_weight, grad_bias */
    void (*norm_back)(const struct fip_norm_back *); /* grad_x, grad_residual */
};

#endif
