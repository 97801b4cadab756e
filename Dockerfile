# One image, several commands: docker run headrace ingest_api | persist_worker | product_consumer | product_api |
# event_relay | migrations | stack (the command ./headrace). Built and run by docker-compose.yml.
#
# From another base, for instance a mirror's or a digest: --build-arg PYTHON_IMAGE=...
ARG PYTHON_IMAGE=python:3.13-slim

# pip stays in the build stage, with all that it leaves. What runs, /opt/headrace, has no pip.
FROM ${PYTHON_IMAGE} AS packages
# Docker's own builder knows no --mount; a layer of its own for the lock file is built again only when it changes.
COPY requirements.lock /tmp/
RUN python3 -m venv --without-pip /opt/headrace \
 && python3 -m pip --python /opt/headrace/bin/python install --no-cache-dir --disable-pip-version-check \
        --no-input --require-hashes --only-binary :all: --requirement /tmp/requirements.lock

FROM ${PYTHON_IMAGE} AS base
# A numeric user, as Kubernetes' runAsNonRoot requires. Volumes take their owner from these directories.
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin headrace \
 && cd / && mkdir secrets home/headrace \
 && cd /secrets && mkdir services accounts migrate ingest_api persist_worker product_consumer product_api event_relay \
        tools \
        postgres rabbitmq redis grafana \
 && chown headrace:headrace /secrets/* /home/headrace
ENV PATH=/opt/headrace/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HEADRACE_HOME=/home/headrace
WORKDIR /app
COPY pyproject.toml ./
COPY pipeline pipeline
COPY web web
COPY database database
COPY migrations migrations
COPY ingest_api ingest_api
COPY persist_worker persist_worker
COPY product_consumer product_consumer
COPY product_api product_api
COPY event_relay event_relay
COPY proof proof
COPY stack stack
# Compiled once here rather than at each start: the file system is read-only when it runs.
RUN python3 -m compileall -q .
USER 10001:10001
STOPSIGNAL SIGTERM
# Checks readiness, not only liveness: other services wait for it. HEALTH_PORT is set for each service, beside its own
# port.
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 CMD ["python", "-IS", "/app/stack/services/healthcheck.py"]
ENTRYPOINT ["python", "-m"]

FROM base AS headrace
COPY --from=packages /opt/headrace /opt/headrace
CMD ["ingest_api"]
