#!/usr/bin/env bash
# Runs docker-compose.yml for real and checks what it promises. See README.md.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
project=sealmesh-check-$$
engine=

export COMPOSE_PROJECT_NAME=$project COMPOSE_DOCKER_CLI_BUILD=0 DOCKER_BUILDKIT=0

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }

if docker compose version >/dev/null 2>&1; then
	compose() { docker compose -f "$repo/docker-compose.yml" "$@"; }
elif command -v docker-compose >/dev/null; then
	compose() { docker-compose -f "$repo/docker-compose.yml" "$@"; }
else
	fail "neither docker compose nor docker-compose is installed"
fi

finish() {
	local status=$?
	set +e
	if docker version >/dev/null 2>&1; then
		if [ "$status" -ne 0 ]; then
			compose logs --no-color --tail=40
		fi
		compose down -v --remove-orphans >/dev/null 2>&1
	fi
	if [ -n "$engine" ]; then
		kill "$engine" && wait "$engine" 2>/dev/null
	fi
	[ "$status" -eq 0 ] || [ -z "$engine" ] || tail -n 5 "$work/dockerd.log"
	rm -rf "$work"
	exit "$status"
}
trap finish EXIT

# An engine of our own where none runs: one that asks nothing of the host but to
# be root, with its data where it is removed again.
start_engine() {
	local driver=$1
	dockerd --data-root "$work/data-$driver" --exec-root "$work/exec" --pidfile "$work/dockerd.pid" \
		--host "unix://$work/docker.sock" --storage-driver "$driver" --iptables=false --bridge=none \
		>"$work/dockerd.log" 2>&1 &
	engine=$!
	for _ in $(seq 60); do
		docker version >/dev/null 2>&1 && return 0
		kill -0 "$engine" 2>/dev/null || break
		sleep 0.5
	done
	kill "$engine" 2>/dev/null || true
	wait "$engine" 2>/dev/null || true
	engine=
	return 1
}

if docker version >/dev/null 2>&1; then
	say "using the engine that runs"
else
	say "starting an engine"
	export DOCKER_HOST=unix://$work/docker.sock
	start_engine overlay2 || start_engine vfs || { cat "$work/dockerd.log"; fail "no engine"; }
fi
docker version --format 'engine {{.Server.Version}}, client {{.Client.Version}}'
docker info --format 'storage driver {{.Driver}}'

# Stand-ins for the base images, under the same names, where they cannot be
# pulled: the Go toolchain and modules of this machine, nats-server from its own
# Go module, and a static busybox.
shell_root() {
	local bb
	bb=$(command -v busybox) || fail "a stand-in needs a static busybox (package busybox-static)"
	mkdir -p "$1/bin" "$1/tmp" "$1/etc"
	chmod 1777 "$1/tmp"
	cp "$bb" "$1/bin/busybox"
	for a in $("$bb" --list); do [ "$a" = busybox ] || ln -sf busybox "$1/bin/$a"; done
	printf 'root:x:0:0::/:/bin/sh\n' >"$1/etc/passwd"
}

standin() {
	local root=$work/root
	rm -rf "$root"
	mkdir -p "$root"
	case $1 in
	golang:*)
		shell_root "$root"
		mkdir -p "$root/usr/local" "$root/go"
		cp -R "$(go env GOROOT)" "$root/usr/local/go"
		# Every module, as a proxy would serve it: what is here already is copied,
		# the rest fetched.
		(cd "$repo" && GOMODCACHE=$work/modules GOFLAGS=-modcacherw \
			GOPROXY=file://$(go env GOMODCACHE)/cache/download,$(go env GOPROXY) go mod download)
		cp -R "$work/modules/cache/download" "$root/go/proxy"
		tar -C "$root" -c . | docker import \
			-c 'ENV PATH=/usr/local/go/bin:/bin GOPROXY=file:///go/proxy GOSUMDB=off GOTOOLCHAIN=local GOPATH=/go HOME=/tmp' - "$1" ;;
	nats:*)
		(cd "$repo" && CGO_ENABLED=0 go build -o "$root/nats-server" github.com/nats-io/nats-server/v2)
		tar -C "$root" -c . | docker import -c 'ENTRYPOINT ["/nats-server"]' - "$1" ;;
	busybox:*)
		shell_root "$root"
		tar -C "$root" -c . | docker import -c 'ENV PATH=/bin:/usr/local/bin' -c 'CMD ["sh"]' - "$1" ;;
	*) fail "no stand-in for $1" ;;
	esac
}

for image in golang:1.26 busybox:stable-musl nats:2; do
	docker image inspect "$image" >/dev/null 2>&1 && continue
	if [ -z "${STANDINS:-}" ] && docker pull -q "$image"; then
		continue
	fi
	say "stand-in for $image"
	standin "$image"
done

say "build"
compose build

say "up"
compose up -d

# wait_for COMMAND...: until it succeeds, a minute at most.
wait_for() {
	for _ in $(seq 60); do
		"$@" && return 0
		sleep 1
	done
	return 1
}
answer='reader: dear asker, app.log ends well'
# all [SERVICE]: its containers, those that have ended too, which the old
# docker-compose lists without being asked.
all() { compose ps -aq "$@" 2>/dev/null || compose ps -q "$@"; }
# answered N: the caller has printed it at least N times.
answered() { [ "$(compose logs --no-color caller | grep -cF "$answer")" -ge "$1" ]; }
wait_for answered 1 || fail "the caller did not print the answer"
echo "caller: $answer"

[ -n "$(all)" ] || fail "no containers"
say "every container runs without privileges and without secrets in its environment"
for id in $(all); do
	name=$(docker inspect -f '{{.Name}}' "$id")
	user=$(docker inspect -f '{{.Config.User}}' "$id")
	[ "$user" = 65532:65532 ] || fail "$name runs as '$user'"
	if docker inspect -f '{{json .Config.Env}}{{json .Config.Cmd}}' "$id" | grep -qE 'S[UAX][A-Z2-7]{56}|SEALMESH_JOIN=|PRIVATE KEY'; then
		fail "$name has a secret in its environment or arguments"
	fi
done

say "the images hold no key"
for image in sealmesh sealmesh-operator sealmesh-quickstart; do
	id=$(docker create "$image" none)
	if docker export "$id" | tar -t | grep -E '\.(nk|key|crt)$|(^|/)agent\.json$'; then
		fail "$image holds key files"
	fi
	docker rm "$id" >/dev/null
done

say "each volume holds what its container needs, and no more"
# files VOLUME: what is in it.
files() { docker run --rm --network none -v "${project}_$1:/v:ro" busybox:stable-musl sh -c 'cd /v && find . -type f | sort'; }
holds() {
	local list
	list=$(files "$1")
	echo "$1:" $list
	! grep -qE "$2" <<<"$list" || fail "$1 holds what it should not"
}
for service in nats server handler caller; do
	mounts=$(docker inspect -f '{{range .Mounts}}{{.Name}} {{end}}' $(all "$service"))
	echo "$service mounts: $mounts"
	case " $mounts" in *" ${project}_mesh "*) fail "$service mounts the whole mesh" ;; esac
done
holds nats '\.nk$|ca\.key$|/root/|/agents/'
holds control '/root/|/agents/|authority'
holds reader 'ca\.key$|/root/|/server/|tokens|issuer'
holds asker 'ca\.key$|/root/|/server/|tokens|issuer'

operator() { compose run --rm operator sealmesh "$@"; }
call() { compose run --rm caller; }

say "a suspended caller is denied, a resumed one is not"
operator agent suspend asker --reason drill
if out=$(call 2>&1); then fail "a suspended agent was answered"; fi
grep -qF 'denied: suspended' <<<"$out" || fail "got: $out"
echo "caller: denied: suspended"
operator agent resume asker >/dev/null
call | grep -F "$answer" || fail "no answer after the resume"

say "a second up changes nothing"
compose up -d
wait_for answered 2 || fail "no answer after the second up"
operator agent ls

say "without a control plane a new connection is unavailable, not denied"
compose stop server
status=0
operator --timeout 5s status || status=$?
[ "$status" -eq 4 ] || fail "exit code $status, want 4 (unavailable)"
compose start server
wait_for operator --timeout 20s status >/dev/null || fail "the control plane did not come back"

say "everything restarts"
compose restart nats server
again() { call 2>/dev/null | grep -F "$answer"; }
wait_for again || fail "no answer after the restart"

say "the compose file does what it promises"
