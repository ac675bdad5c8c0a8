# The service and training on an NVIDIA GPU, with torchsparse built for one pair of CUDA and torch. From the root of the repository:
#   docker build -f docker/gpu.Dockerfile -t fip-server-gpu:0.1.0 .
# Build arguments:
#   CUDA         version of the toolkit that torchsparse is compiled with; its first two numbers must be those of torch's own CUDA
#   TORCH_INDEX  where torch comes from when set: an index of builds for that CUDA; the default index has torch 2.13.0 for CUDA 13.0
#   ARCHITECTURES  compute capabilities that torchsparse is compiled for; newer devices compile the last one anew
#   TORCHSPARSE  a commit of its repository; empty: none, and the Triton engine serves, which needs nothing built
#   MAX_JOBS     of its files that are compiled at once: each takes up to 4 GiB of memory
#   EXTRAS       extras of the package to install, with commas: serve, otel, train, mlflow
ARG CUDA=13.0.0

FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04 AS build
ARG CUDA
ARG EXTRAS=serve,otel,train
ARG TORCH_INDEX=
ARG ARCHITECTURES="8.0;8.6;8.9;9.0+PTX"
# 2.1.0: the repository has no tag for it, and its branch `v2.1.0` is 2.0.0b.
ARG TORCHSPARSE=385f5ce8718fcae93540511b7f5832f4e71fd835
ARG MAX_JOBS=4
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore DEBIAN_FRONTEND=noninteractive
RUN apt-get update -qq \
 && apt-get install -qq --no-install-recommends git gcc g++ libsparsehash-dev python3 python3-dev python3-venv >/dev/null \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# Dependencies first: this layer changes only with pyproject.toml, not with the code.
COPY pyproject.toml LICENSE NOTICE README.md ./
RUN python3 -m venv /opt/fip \
 && mkdir models training service && touch models/__init__.py training/__init__.py service/__init__.py \
 && /opt/fip/bin/python -m pip install --quiet ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[$EXTRAS]" \
 && /opt/fip/bin/python -m pip uninstall --quiet --yes fip-server \
 && /opt/fip/bin/python -c "import sys, torch; asked, found = '${CUDA}'.split('.')[:2], (torch.version.cuda or 'none').split('.'); sys.exit(0 if asked == found else f'torch {torch.__version__} is built for CUDA {torch.version.cuda}, this image for ${CUDA}: set CUDA or TORCH_INDEX')"
# torchsparse asks for C++17, torch's own headers for C++20, and two of its files include a header that torch keeps elsewhere by now.
# Of what it depends on, its layers import rootpath and six alone.
RUN if [ -n "$TORCHSPARSE" ]; then \
      git init --quiet /torchsparse && cd /torchsparse \
      && git fetch --quiet --depth 1 https://github.com/mit-han-lab/torchsparse.git "$TORCHSPARSE" && git checkout --quiet FETCH_HEAD \
      && sed -i 's/-std=c++17/-std=c++20/' setup.py \
      && sed -i 's:THC/THCAtomics.cuh:ATen/cuda/Atomic.cuh:' torchsparse/backend/*voxelize/*_cuda.cu \
      && /opt/fip/bin/python -m pip install --quiet setuptools wheel ninja six tqdm \
      && /opt/fip/bin/python -m pip install --quiet --no-deps rootpath backports.cached_property \
      && FORCE_CUDA=1 MAX_JOBS="$MAX_JOBS" TORCH_CUDA_ARCH_LIST="$ARCHITECTURES" \
         /opt/fip/bin/python -m pip install --quiet --no-deps --no-build-isolation . ; \
    fi
COPY models models
COPY training training
COPY service service
RUN /opt/fip/bin/python -m pip wheel --quiet --no-deps --wheel-dir /dist . \
 && /opt/fip/bin/python -m pip install --quiet --no-deps /dist/*.whl \
 && /opt/fip/bin/python -m compileall -q /opt/fip/lib/python3*/site-packages/models /opt/fip/lib/python3*/site-packages/service \
    /opt/fip/lib/python3*/site-packages/training \
 && (/opt/fip/bin/python -m models.sparse.backends.native_build /opt/fip/lib/fip-native.so || true)

FROM nvidia/cuda:${CUDA}-base-ubuntu24.04
# Triton compiles its kernels when they are first used; a C compiler and Python's headers are for the small program that starts them.
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends gcc libc6-dev libgomp1 python3 python3-dev >/dev/null \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/fip /opt/fip
ENV PATH=/opt/fip/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 FIP_HOST=0.0.0.0 FIP_PORT=8000 \
    FIP_NATIVE_LIBRARY=/opt/fip/lib/fip-native.so FIP_CACHE=/cache/fip TRITON_CACHE_DIR=/cache/triton CUDA_CACHE_PATH=/cache/cuda
RUN useradd --uid 10001 --create-home --home-dir /home/fip --shell /usr/sbin/nologin fip \
 && mkdir /registry /jobs /cache /home/fip/runs && chown 10001:10001 /registry /jobs /cache /home/fip/runs
USER 10001:10001
WORKDIR /home/fip
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=180s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('FIP_PORT', '8000')}/health/ready\", timeout=2)"]
CMD ["fip", "serve"]
