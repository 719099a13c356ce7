# Three images of one build: `sealmesh` (the default: one static binary and
# nothing else), `newsroom` (the agents of examples/newsroom) and `operator` (the
# binary with a shell around it, for scripts).
#
# The binary embeds nothing of a mesh: mount the folders that a container needs,
# owned by the user 65532 that all of these run as.

ARG GO_IMAGE=golang:1.26
ARG SHELL_IMAGE=busybox:1.37-musl

FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o /out/ ./cmd/sealmesh ./examples/newsroom
# Volumes take the owner of what they are first mounted over.
RUN mkdir -p /empty/mesh /empty/nats /empty/control /empty/state /empty/reader /empty/writer /empty/orchestrator /empty/intruder

FROM ${SHELL_IMAGE} AS operator
COPY --from=build /out/sealmesh /usr/local/bin/sealmesh
COPY --from=build --chown=65532:65532 /empty/ /srv/
USER 65532:65532
ENV HOME=/tmp

FROM scratch AS newsroom
COPY --from=build /out/newsroom /usr/local/bin/newsroom
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/newsroom"]

FROM scratch AS sealmesh
COPY --from=build /out/sealmesh /usr/local/bin/sealmesh
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/sealmesh"]
