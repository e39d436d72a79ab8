# One image for every process; the command chooses which:
#
#   docker build -t analytics-service --build-arg BUILD_COMMIT=$(git rev-parse HEAD) .
#   docker run analytics-service python -m ingestor
#
# Each command is process 1 itself, without a shell or an init in between: the workers handle SIGTERM, and
# gunicorn also collects its children. Only /tmp is written to: --read-only --tmpfs /tmp is enough.

ARG PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm

# The console's files: Node from a wheel, packages from npm as package-lock.json pins them.
FROM ${PYTHON_IMAGE} AS console
WORKDIR /app
COPY requirements-console.lock /tmp/
RUN pip install --no-cache-dir --only-binary :all: --require-hashes -r /tmp/requirements-console.lock
COPY gateway/__init__.py gateway/
COPY gateway/console gateway/console
RUN python -m gateway.console.build

FROM ${PYTHON_IMAGE} AS build
WORKDIR /app
COPY requirements.lock /tmp/
# Wheels only: nothing is compiled, here or later. What the image gets of this has no pip.
RUN python3 -m venv /opt/pip \
    && python3 -m venv --without-pip /opt/venv \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install \
        --no-cache-dir --only-binary :all: --no-compile --require-hashes -r /tmp/requirements.lock
COPY . .
# Of the console only what is served.
COPY --from=console /app/gateway/console/dist gateway/console/dist
RUN rm -r gateway/console/ui
# Bytecode is made once here, since a read-only file system keeps none later.
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib .

FROM ${PYTHON_IMAGE}
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
# Last, since they change with every build.
ARG BUILD_COMMIT=unknown
ENV BUILD_COMMIT=${BUILD_COMMIT}
LABEL org.opencontainers.image.title="analytics-service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${BUILD_COMMIT}"
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
CMD ["python", "-c", "raise SystemExit('name a command, such as python -m ingestor; see the Procfile')"]
