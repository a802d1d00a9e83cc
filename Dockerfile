# The service of a trained run: docker build -t ironclip . && docker run -p 8000:8000 -e IRONCLIP_TOKEN=secret -v "$PWD/runs:/runs" ironclip
# For CUDA: docker build --build-arg TORCH=cu126 -t ironclip:cuda . && docker run --gpus all ...
# Any other verb: docker run --rm -v "$PWD:/data" -w /data --entrypoint ironclip ironclip train nap --data photos
FROM python:3.12-slim

# The channel of PyTorch's wheels: cpu, or a CUDA version such as cu126. The wheels bring the CUDA libraries with them.
ARG TORCH=cpu
# Extras of the package; with `cluster` it is an image for Ray, whose Kubernetes operator asks for wget.
ARG EXTRAS=serve,export
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 IRONCLIP_CACHE=/home/ironclip/cache

RUN useradd --create-home --uid 1000 ironclip
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY ironclip ironclip
COPY grids grids
COPY examples examples
RUN pip install --index-url "https://download.pytorch.org/whl/${TORCH}" torch torchvision \
 && pip install ".[${EXTRAS}]" \
 && case "${EXTRAS}" in *cluster*) apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/*;; esac \
 && rm -rf /src/*

USER ironclip
WORKDIR /home/ironclip
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["ironclip", "serve", "--host", "0.0.0.0"]
CMD ["/runs/last"]
