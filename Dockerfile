# The base is pinned by its digest; the tag is for people.
FROM python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b AS dependencies
RUN python -m venv --without-pip /venv
COPY requirements.lock ./
# Install wheels only, so that neither stage needs a compiler. /venv itself contains no pip.
RUN pip --python /venv/bin/python install --no-cache-dir --disable-pip-version-check \
    --require-hashes --only-binary :all: --requirement requirements.lock
# The console script that pip would write, if the project itself were installed.
RUN printf '#!/venv/bin/python\nfrom valetkey.cli.main import main\nmain()\n' > /venv/bin/valetkey && \
    chmod 755 /venv/bin/valetkey

FROM python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b
# The user id is above those of the host's users. USER takes the number, so that Kubernetes can
# verify that the user is not root.
RUN useradd --uid 10001 --create-home valetkey
COPY --from=dependencies /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1
WORKDIR /app
COPY celeryconfig.py ./
COPY models/ ./models/
COPY valetkey/ ./valetkey/
COPY worker/ ./worker/
# The user cannot write here, so each start would compile the modules again.
RUN python -m compileall -q .
USER 10001:10001
# Exec form, without a shell: `run` receives SIGTERM directly, and passes it on to its workers.
ENTRYPOINT ["python", "-m", "worker"]
CMD ["run"]
