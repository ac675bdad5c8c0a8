# The service with its bundled model, or with EXTRAS=train what trains more of them. Build arguments:
#   BASE_IMAGE   an image with Python 3.11 as `python`
#   EXTRAS       extras of the package to install, with commas: serve, otel, train, mlflow
#   TORCH_INDEX  where torch comes from when set, e.g. an index of CPU-only builds, which makes a much smaller image
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG EXTRAS=serve
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# Dependencies first: this layer changes only with pyproject.toml, not with the code.
COPY pyproject.toml LICENSE NOTICE README.md ./
# A compiler for the native engine, in this stage only; without one the image runs on the engine that needs none.
RUN (apt-get update -qq && apt-get install -qq --no-install-recommends gcc libc6-dev >/dev/null) || echo "no C compiler for the native engine"
RUN python -m venv /opt/fip \
 && mkdir models training service && touch models/__init__.py training/__init__.py service/__init__.py \
 && /opt/fip/bin/python -m pip install --quiet ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[$EXTRAS]" \
 && /opt/fip/bin/python -m pip uninstall --quiet --yes fip-server
COPY models models
COPY training training
COPY service service
RUN python -m pip wheel --quiet --no-deps --wheel-dir /dist . \
 && /opt/fip/bin/python -m pip install --quiet --no-deps /dist/*.whl \
 && /opt/fip/bin/python -m compileall -q /opt/fip/lib/python3*/site-packages/models /opt/fip/lib/python3*/site-packages/service \
    /opt/fip/lib/python3*/site-packages/training \
 && (/opt/fip/bin/python -m models.sparse.backends.native_build /opt/fip/lib/fip-native.so || true)

FROM ${BASE_IMAGE}
COPY --from=build /opt/fip /opt/fip
ENV PATH=/opt/fip/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 FIP_HOST=0.0.0.0 FIP_PORT=8000 \
    FIP_NATIVE_LIBRARY=/opt/fip/lib/fip-native.so
RUN useradd --uid 10001 --create-home --home-dir /home/fip --shell /usr/sbin/nologin fip \
 && mkdir /registry /jobs /home/fip/runs && chown 10001:10001 /registry /jobs /home/fip/runs
USER 10001:10001
WORKDIR /home/fip
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('FIP_PORT', '8000')}/health/ready\", timeout=2)"]
CMD ["fip", "serve"]
