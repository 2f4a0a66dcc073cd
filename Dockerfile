# The production image: docker build -t featbit-tokens .
FROM rust:1-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libssl-dev make pkg-config zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN cargo build --release --locked --bin featbit-tokens

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin featbit-tokens
COPY --from=build /source/target/release/featbit-tokens /usr/local/bin/featbit-tokens
USER 10001
EXPOSE 5080
ENTRYPOINT ["featbit-tokens"]
CMD ["serve"]
