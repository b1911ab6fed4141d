FROM python:3.11-slim AS build
WORKDIR /build
RUN python -m venv /opt/readthrough
COPY requirements.lock ./
RUN /opt/readthrough/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY proxy ./proxy
RUN /opt/readthrough/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim
COPY --from=build /opt/readthrough /opt/readthrough
ENV PATH=/opt/readthrough/bin:$PATH PYTHONUNBUFFERED=1
USER 65532:65532
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
# A configuration goes to /etc/readthrough.yaml: docker run -v ./mine.yaml:/etc/readthrough.yaml:ro …
# or, without one: docker run … serve --upstream https://api.example.com
# and to probe and purge that one from outside: docker run -e READTHROUGH_TOKEN … --admin 0.0.0.0:8081
ENTRYPOINT ["readthrough"]
CMD ["serve", "-c", "/etc/readthrough.yaml"]
