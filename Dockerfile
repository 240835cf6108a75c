# tests/test_packaging.py runs these commands outside Docker, in a clean directory.

FROM python:3.13-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends make
WORKDIR /src
COPY . .
RUN make wheel
RUN python -m venv --without-pip /opt/collab
RUN .venv/bin/python -m pip --python /opt/collab/bin/python install --require-hashes -r requirements-runtime.lock
RUN .venv/bin/python -m pip --python /opt/collab/bin/python install --no-deps dist/*.whl

FROM python:3.13-slim
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin collab
RUN install -d -o 10001 -g 10001 -m 700 /data
COPY --from=build /opt/collab /opt/collab
ENV PATH=/opt/collab/bin:$PATH PYTHONUNBUFFERED=1
# Another database: -e COLLAB_DATABASE=postgresql://user:password@host/name
ENV COLLAB_DATABASE=sqlite:////data/collab.db
USER collab
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
# It doesn't start until it knows who is let in: -e COLLAB_JWT_SECRET=..., or one of the
# other ways (docs/auth.md). -e COLLAB_ALLOW_ANONYMOUS=1 lets in whoever reaches the port.
ENTRYPOINT ["collab", "serve", "--host", "0.0.0.0"]
