# One file, three images, all Debian's own packages:
#   docker build -t shardplane .                                the services and shardctl (default)
#   docker build -t shardplane-etcd --target etcd .             etcd
#   docker build -t shardplane-postgres --target postgres .     PostgreSQL 15 with the roles of tools/sql/roles.sql

FROM debian:bookworm-slim AS build
WORKDIR /src
# The packages first: they change less often than the sources.
COPY tools/deps.sh tools/deps.sh
RUN apt-get -q update && bash tools/deps.sh && rm -rf /var/lib/apt/lists/*
COPY . .
RUN make build && strip bin/*

FROM debian:bookworm-slim AS etcd
RUN apt-get -q update \
    && DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends etcd-server \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o nobody -g nogroup -m 0700 /data
USER nobody
VOLUME /data
# On loopback only, because nothing authenticates its clients: the services share this container's network namespace.
ENTRYPOINT ["etcd", "--name", "local", "--data-dir", "/data", \
            "--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379", \
            "--listen-peer-urls", "http://127.0.0.1:2380", "--logger", "zap", "--log-outputs", "stderr"]

FROM debian:bookworm-slim AS postgres
RUN apt-get -q update \
    && DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends postgresql-15 \
    && rm -rf /var/lib/apt/lists/* /var/lib/postgresql/15 \
    && install -d -o postgres -g postgres -m 0700 /data
COPY tools/sql/roles.sql /roles.sql
COPY tools/docker/postgres.sh /postgres.sh
USER postgres
VOLUME /data
EXPOSE 5432
# Fast shutdown: at SIGTERM the server would wait for its clients, and be killed for it.
STOPSIGNAL SIGINT
ENTRYPOINT ["bash", "/postgres.sh"]

# Last, so that a plain `docker build` makes it.
FROM debian:bookworm-slim AS services
RUN apt-get -q update \
    && DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends \
       libczmq4 libzmq5 libmsgpackc2 libpq5 libcurl4 libjansson4 libmicrohttpd12 libsodium23 postgresql-client-15 curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --home-dir /nonexistent shardplane \
    && install -d -o shardplane -g shardplane -m 0700 /run/shardplane
# postgresql-client-15 brings pg_dump, which makes the targets' tables.
COPY --from=build /src/bin/ /opt/shardplane/bin/
COPY --from=build /src/configs/ /opt/shardplane/configs/
COPY tools/docker/secret.sh /opt/shardplane/bin/make-secret
WORKDIR /opt/shardplane
ENV PATH=/opt/shardplane/bin:$PATH
USER shardplane
CMD ["gateway", "--config", "configs/docker/gateway.json"]
