# docker build -t ai4free .
# docker run -p 8080:8080 -v ai4free:/var/lib/ai4free ai4free
#
# The final image runs no command while it is built, so BASE_IMAGE may be one without a shell, such as distroless/cc.
ARG RUST_IMAGE=rust:1.95-slim-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
WORKDIR /build
COPY . .
RUN cargo build --release --locked --bin ai4free \
    && mkdir -p /image/usr/local/bin /image/var/lib/ai4free \
    && cp target/release/ai4free /image/usr/local/bin/

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="ai4free" \
    org.opencontainers.image.description="An OpenAI-compatible gateway in front of many LLM providers" \
    org.opencontainers.image.licenses="MIT"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /image/usr/local/bin/ai4free /usr/local/bin/ai4free
COPY --from=build --chown=65532:65532 /image/var/lib/ai4free /var/lib/ai4free
ENV HOST=0.0.0.0 PORT=8080 AI4FREE_DATA_DIR=/var/lib/ai4free
USER 65532:65532
WORKDIR /var/lib/ai4free
VOLUME /var/lib/ai4free
EXPOSE 8080
# Begins to drain, as Kubernetes does; `docker stop` needs --time 330 for long streams.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/usr/local/bin/ai4free", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/ai4free"]
CMD ["serve"]
