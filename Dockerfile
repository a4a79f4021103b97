# Build: docker build -t pmkv .     Run: see docker-compose.yml, or docs/OPERATIONS.md.
# Needs BuildKit (the default since Docker 23): TARGETARCH selects the processor type for which kernels are compiled.

FROM python:3.12-slim-bookworm AS base
ENV PATH=/opt/pmkv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/opt/kernels \
    NUMBA_CPU_NAME=generic

# numba finds a compiled kernel by the processor's name and features. Both are fixed here, so that the kernels fit
# wherever the image runs: on x86-64 of 2009 and later (x86-64-v2), and on any 64-bit ARM.
FROM base AS cpu-amd64
ENV NUMBA_CPU_FEATURES=+cx16,+popcnt,+sahf,+sse3,+sse4.1,+sse4.2,+ssse3
FROM base AS cpu-arm64
ENV NUMBA_CPU_FEATURES=+neon

FROM cpu-${TARGETARCH} AS builder
RUN python -m venv /opt/pmkv
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY pmkv pmkv
COPY server server
RUN pip install --no-cache-dir . && python -m compileall -q /opt/pmkv/lib
WORKDIR /
RUN python -m pmkv.kernels && python -c 'import pmkv_server.server'

FROM cpu-${TARGETARCH} AS runtime
# libpmem1 is for pools on persistent memory (--pool /dev/dax0.0 or a file on fsdax); plain files do not need it.
RUN apt-get update && apt-get install -y --no-install-recommends libpmem1 && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 7379 --user-group --no-create-home --home-dir /data pmkv \
    && install -d -o pmkv -g pmkv -m 0750 /data
COPY --from=builder /opt/pmkv /opt/pmkv
# The user owns this folder because numba ignores a cache that it cannot write to.
COPY --from=builder --chown=pmkv:pmkv /opt/kernels /opt/kernels
COPY deploy/healthcheck.py /opt/pmkv/healthcheck.py
USER pmkv
WORKDIR /data
VOLUME /data
ENV PMKV_DATA=/data PMKV_HOST=0.0.0.0 PMKV_PORT=7379 PMKV_REST_PORT=7380
EXPOSE 7379 7380
# 0.0.0.0 needs a password: without PMKV_PASSWORD the server refuses to start, with an error message.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["python", "/opt/pmkv/healthcheck.py"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["pmkv"]
CMD ["serve"]
