# One image for CPUs, NVIDIA GPUs and TPUs: EXTRAS are those of pyproject.toml, such as cuda13, or cuda13,report.
# JAX's wheels bring CUDA with them: the host needs the driver and NVIDIA's container toolkit alone.
FROM python:3.12-slim-bookworm AS wheel
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY mixlm mixlm
COPY gin gin
COPY studies studies
RUN pip wheel --no-cache-dir --no-deps --wheel-dir=/wheel .

FROM python:3.12-slim-bookworm AS requirements
ARG EXTRAS=""
WORKDIR /source
COPY pyproject.toml .
RUN python -c 'import os, tomllib; \
project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
extras = [project["optional-dependencies"][name] for name in os.environ["EXTRAS"].split(",") if name]; \
print(*project["dependencies"], *sum(extras, []), sep="\n")' > /requirements.txt

FROM python:3.12-slim-bookworm
# The large layer follows from pyproject.toml, a change of the code makes the small one after it anew.
RUN --mount=from=requirements,source=/requirements.txt,target=/requirements.txt \
    pip install --no-cache-dir --requirement=/requirements.txt
RUN --mount=from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir --no-deps /wheel/*.whl

# Any user may write into the volumes: `docker run --user` names whose the runs shall be.
RUN useradd --create-home mixlm && install -d -m 1777 /mixlm /mixlm/runs /cache
ENV HOME=/mixlm MIXLM_CACHE=/cache MPLCONFIGDIR=/cache/matplotlib
VOLUME ["/mixlm/runs", "/cache"]
WORKDIR /mixlm
# Root where what is mounted is root's alone, such as a new Filestore: --build-arg=RUN_AS=root.
ARG RUN_AS=mixlm
USER $RUN_AS
ENTRYPOINT ["mixlm"]
CMD ["--help"]
