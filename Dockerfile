# Three images of one build: `sealmesh` (the default: one static binary and
# nothing else), `quickstart` (the two programs of examples/quickstart) and
# `operator` (the binary with a shell around it, for scripts).
#
# The binary embeds nothing of a mesh: mount the folders that a container needs,
# owned by the user 65532 that all of these run as.

ARG GO_IMAGE=golang:1.26
ARG SHELL_IMAGE=busybox:stable-musl

FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o /out/ ./cmd/sealmesh ./examples/quickstart/handler ./examples/quickstart/caller
# Volumes take the owner of what they are first mounted over.
RUN mkdir -p /empty/mesh /empty/nats /empty/control /empty/state /empty/reader /empty/asker

FROM ${SHELL_IMAGE} AS operator
COPY --from=build /out/sealmesh /usr/local/bin/sealmesh
COPY --from=build --chown=65532:65532 /empty/ /srv/
USER 65532:65532
ENV HOME=/tmp

FROM scratch AS quickstart
COPY --from=build /out/handler /out/caller /usr/local/bin/
USER 65532:65532

FROM scratch AS sealmesh
COPY --from=build /out/sealmesh /usr/local/bin/sealmesh
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/sealmesh"]
