# Two images from one file: `web` (no torch) and `worker` (with the trainer and local models).

FROM node:22-slim AS browser
WORKDIR /plackett
COPY package.json package-lock.json ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY static static
RUN node static/bundle.mjs && npm prune --omit=dev --ignore-scripts --no-audit --no-fund

FROM python:3.12-slim AS web
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PLACKETT_DATA_DIR=/data \
    PLACKETT_LOG_FORMAT=json
WORKDIR /plackett
RUN useradd --system --create-home --uid 10001 plackett \
    && install -d -o plackett -g plackett /data
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY app/__init__.py app/__init__.py
COPY demo/__init__.py demo/__init__.py
COPY trainer/__init__.py trainer/__init__.py
RUN pip install --constraint requirements.lock --editable .
COPY --from=browser /plackett/node_modules node_modules
COPY . .
COPY --from=browser /plackett/static/built static/built
USER plackett
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
CMD ["plackett", "serve", "--host", "0.0.0.0", "--port", "8000", "--workers", "2"]

FROM web AS worker
USER root
RUN pip install --constraint requirements.lock --editable ".[trainer]"
USER plackett
ENV OMP_WAIT_POLICY=PASSIVE
HEALTHCHECK NONE
CMD ["plackett", "worker"]
