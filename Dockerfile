# Two images: `airflow`, with everything that Airflow runs (docker-compose.yaml, Kubernetes), and `sandbox`, the emulators.
# The Python version is the one that requirements.lock and the tests are for.
ARG AIRFLOW_VERSION=3.3.2
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim-bookworm AS sandbox
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 SANDBOX_HOME=/var/lib/sandbox
WORKDIR /opt/sandbox
RUN useradd --uid 50000 --gid 0 --home-dir /var/lib/sandbox --create-home sandbox
COPY requirements.txt requirements.lock ./
COPY sandbox/requirements.txt sandbox/requirements.txt
# The emulators depend on exact versions, so all of them are the locked ones.
RUN pip install --no-cache-dir --constraint requirements.lock -r requirements.txt -r sandbox/requirements.txt
COPY include include
COPY plugins plugins
COPY emulators emulators
COPY examples examples
COPY sandbox sandbox
USER 50000:0
CMD ["python", "-m", "sandbox", "serve"]

FROM apache/airflow:${AIRFLOW_VERSION}-python${PYTHON_VERSION} AS airflow
ARG AIRFLOW_VERSION
# airflow_local_settings.py has to be found by every process.
ENV PYTHONPATH=/opt/airflow/config
WORKDIR /opt/airflow
COPY requirements.txt requirements.txt
COPY deploy/requirements.txt deploy/requirements.txt
# Naming Airflow's own version keeps pip from moving it to meet a provider's wish.
RUN pip install --no-cache-dir "apache-airflow==${AIRFLOW_VERSION}" -r requirements.txt -r deploy/requirements.txt
# Owned by root: the processes can read their code and not change it.
COPY deploy/init.py deploy/init.py
COPY config config
COPY include include
COPY plugins plugins
COPY dags dags
