# syntax=docker/dockerfile:1
# Holdfast's image: every process of Holdfast runs from it. `docker build -t holdfast:0.1.0 .`

FROM python:3.12.12-slim-bookworm AS build
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never \
    UV_PROJECT_ENVIRONMENT=/opt/holdfast
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.9.11
WORKDIR /src
# The dependencies first: they change seldom, and this layer is kept while they do not.
COPY pyproject.toml uv.lock README.md LICENSE ./
COPY holdfast_verdict/pyproject.toml holdfast_verdict/
COPY sdk/pyproject.toml sdk/
RUN uv sync --locked --no-default-groups --no-install-workspace
COPY holdfast_verdict/ holdfast_verdict/
COPY sdk/ sdk/
COPY holdfast/ holdfast/
COPY sandbox/ sandbox/
COPY activities/ activities/
COPY workflows/ workflows/
COPY workers/ workers/
COPY api/ api/
COPY cli/ cli/
# The last adds what code in the sandbox may import as the runtime `data`: numpy, pandas and matplotlib, by the lock in the source tree.
RUN uv sync --locked --no-default-groups --no-editable \
    && /opt/holdfast/bin/holdfast sandbox build data --folder /opt/holdfast-environments

FROM python:3.12.12-slim-bookworm
ARG HOLDFAST_VERSION=0.1.0
LABEL org.opencontainers.image.title="Holdfast" \
      org.opencontainers.image.description="The enforcement layer between AI agents and production systems" \
      org.opencontainers.image.version="${HOLDFAST_VERSION}" \
      org.opencontainers.image.licenses="MIT"
# Folders that volumes are mounted on: a new volume takes over the folder's account and mode.
RUN groupadd --gid 10001 holdfast \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin holdfast \
    && install -d -o holdfast -g holdfast -m 0755 /secrets \
    && install -d -o holdfast -g holdfast -m 0700 \
        /run/first-keys /secrets/master /secrets/api /secrets/governor /secrets/broker /secrets/executor /secrets/roles \
        /secrets/migrations /secrets/bootstrap /secrets/auditor \
    && install -d -o holdfast -g holdfast -m 0755 /secrets/postgres /secrets/redis /secrets/temporal
COPY --from=build /opt/holdfast /opt/holdfast
COPY --from=build /opt/holdfast-environments /opt/holdfast-environments
ENV PATH=/opt/holdfast/bin:$PATH \
    HOLDFAST_ENVIRONMENTS_FOLDER=/opt/holdfast-environments \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /
USER 10001:10001
# Which process it is, its command says; how to see that it is well differs, so each service has a health check of its own.
HEALTHCHECK NONE
CMD ["holdfast", "--help"]
