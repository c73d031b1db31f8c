FROM python:3.13-slim AS dependencies
RUN python -m venv --without-pip /venv
COPY requirements.lock ./
# Wheels only: nothing is compiled, so neither stage has a compiler, and /venv has no pip.
RUN pip --python /venv/bin/python install --no-cache-dir --disable-pip-version-check \
    --require-hashes --only-binary :all: --requirement requirements.lock

FROM python:3.13-slim
# A number above those of the host's users; by number, so that Kubernetes can see it is not root.
RUN useradd --uid 10001 --create-home valetkey
COPY --from=dependencies /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /app
COPY celeryconfig.py ./
COPY examples/tenants.toml ./examples/
COPY models/ ./models/
COPY valetkey/ ./valetkey/
COPY worker/ ./worker/
USER 10001:10001
# Without a shell in between, SIGTERM reaches Celery, which `run` becomes.
ENTRYPOINT ["python", "-m", "worker"]
CMD ["run"]
