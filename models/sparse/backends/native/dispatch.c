/* Which kernels this processor can run. */
#include "fip.h"
#include <string.h>

extern const struct fip_kernels fip_kernels_portable, fip_kernels_avx2, fip_kernels_avx512, fip_kernels_avx512bf16, fip_kernels_amx;

#ifdef HAVE_amx
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

/* Whether the processor has tiles of bfloat16, and the system lets this process use them: Linux wants to be asked once. */
static int may_use_tiles(void) {
    unsigned int a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return 0;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
#endif

/* The kernels of this name ("portable", "avx2", "avx512", "avx512bf16", "amx"), or NULL where they were not compiled or cannot run. */
const struct fip_kernels *fip_kernels_named(const char *name) {
    if (!strcmp(name, "portable")) return &fip_kernels_portable;
#ifdef HAVE_avx2
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!strcmp(name, "avx2")) return avx2 ? &fip_kernels_avx2 : NULL;
#ifdef HAVE_avx512
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                 __builtin_cpu_supports("avx512dq");
    if (!strcmp(name, "avx512")) return avx512 ? &fip_kernels_avx512 : NULL;
#ifdef HAVE_avx512bf16
    int bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
    if (!strcmp(name, "avx512bf16")) return bf16 ? &fip_kernels_avx512bf16 : NULL;
#ifdef HAVE_amx
    if (!strcmp(name, "amx")) return bf16 && may_use_tiles() ? &fip_kernels_amx : NULL;
#endif
#endif
#endif
#endif
    return NULL;
}

/* Whether it uses more than one thread where it is told to. */
int32_t fip_has_threads(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

/* What this library was compiled from: a digest that the build passes. */
const char *fip_sources(void) { return FIP_SOURCES; }
