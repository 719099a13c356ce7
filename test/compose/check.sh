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
		shell_root "$root"
		(cd "$repo" && CGO_ENABLED=0 go build -o "$root/bin/nats-server" github.com/nats-io/nats-server/v2)
		tar -C "$root" -c . | docker import -c 'ENV PATH=/bin' -c 'CMD ["nats-server"]' - "$1" ;;
	busybox:*)
		shell_root "$root"
		tar -C "$root" -c . | docker import -c 'ENV PATH=/bin:/usr/local/bin' -c 'CMD ["sh"]' - "$1" ;;
	*) fail "no stand-in for $1" ;;
	esac
}

for image in golang:1.26 busybox:1.37-musl nats:2.15-alpine; do
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
# all [SERVICE]: its containers, those that have ended too, which the old
# docker-compose lists without being asked.
all() { compose ps -aq "$@" 2>/dev/null || compose ps -q "$@"; }
# said SERVICE TEXT [N]: its log has the text, N times at least.
said() { [ "$(compose logs --no-color "$1" 2>/dev/null | grep -cF "$2")" -ge "${3:-1}" ]; }
tells() { wait_for said "$@" || fail "$1 does not say: $2"; echo "$1: $2"; }
cli() { compose run --rm cli "$@"; }

say "the newsroom works: calls, a right that is lent, events"
tells orchestrator 'got from writer: report for orchestrator: app.log: disk is 71% full'
tells reader 'app.log is read by writer, correlation'
tells writer 'wrote a report for orchestrator with a right that was lent'
tells orchestrator 'heard of writer that a report is done' 2

say "the intruder gets nowhere"
tells intruder 'all attempts were refused'
for attempt in \
	'calls what it has no right to: refused: scope-not-held' \
	'lends what it does not have: refused: beyond-own' \
	'calls it all the same, past its client: refused: permissions violation' \
	'speaks as the writer: refused: permissions violation' \
	"answers in the reader's name: refused: permissions violation" \
	'writes into the registry: refused: permissions violation' \
	'reads the sessions: refused: permissions violation' \
	'asks the server who is connected: refused: permissions violation' \
	'listens to everything: refused: permissions violation' \
	"listens to others' calls: refused: permissions violation" \
	'comes with its certificate and another key: refused: authorization violation'; do
	tells intruder "attempt: $attempt"
done
tells orchestrator 'refused event gossip of intruder: bad-envelope'
tells orchestrator 'refused event gossip of intruder: replayed'
! said intruder 'NOT REFUSED' || fail "the intruder got somewhere"
[ "$(docker inspect -f '{{.State.ExitCode}}' $(all intruder))" = 0 ] || fail "the intruder's exit code is not 0"

[ -n "$(all)" ] || fail "no containers"
say "every container runs without privileges, on a read-only root, and without secrets"
for id in $(all); do
	name=$(docker inspect -f '{{.Name}}' "$id")
	user=$(docker inspect -f '{{.Config.User}}' "$id")
	[ "$user" = 65532:65532 ] || fail "$name runs as '$user'"
	rights=$(docker inspect -f '{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} {{.HostConfig.Privileged}}' "$id")
	[ "$rights" = 'true [ALL] [no-new-privileges:true] false' ] || fail "$name has $rights"
	if docker inspect -f '{{json .Config.Env}}{{json .Config.Cmd}}' "$id" | grep -qE 'S[UAX][A-Z2-7]{56}|SEALMESH_JOIN=|PRIVATE KEY'; then
		fail "$name has a secret in its environment or arguments"
	fi
done
if compose exec -T nats sh -c 'echo x >/here' 2>/dev/null; then fail "the root of nats can be written"; fi
if compose logs --no-color server-a server-b | grep -F 'cannot be renewed'; then fail "a certificate cannot be renewed"; fi
if compose logs --no-color | grep -E 'S[UAX][A-Z2-7]{56}|PRIVATE KEY'; then fail "a log holds a secret"; fi

say "nats and both control planes are healthy"
healthy() { [ "$(docker inspect -f '{{.State.Health.Status}}' $(all "$1"))" = healthy ]; }
for service in nats server-a server-b; do
	wait_for healthy "$service" || fail "$service is not healthy"
done

say "the images hold no key"
for image in sealmesh sealmesh-operator sealmesh-newsroom; do
	id=$(docker create "$image" none)
	if docker export "$id" | tar -t | grep -E '\.(nk|key|crt)$|(^|/)agent\.json$'; then
		fail "$image holds key files"
	fi
	docker rm "$id" >/dev/null
done

say "each volume holds what its container needs, and no more"
# files VOLUME: what is in it.
files() { docker run --rm --network none -v "${project}_$1:/v:ro" busybox:1.37-musl sh -c 'cd /v && find . -type f | sort'; }
holds() {
	local list
	list=$(files "$1")
	echo "$1:" $list
	! grep -qE "$2" <<<"$list" || fail "$1 holds what it should not"
}
for service in nats server-a server-b reader writer orchestrator intruder; do
	mounts=$(docker inspect -f '{{range .Mounts}}{{.Name}} {{end}}' $(all "$service"))
	echo "$service mounts: $mounts"
	case " $mounts" in *" ${project}_mesh "*) fail "$service mounts the whole mesh" ;; esac
done
holds nats '\.nk$|ca\.key$|/root/|/agents/'
holds control '/root/|/agents/|authority'
for agent in reader writer orchestrator intruder; do
	holds "$agent" 'ca\.key$|/root/|/server/|tokens|issuer'
done

say "the operator sees who is there, and what happened"
cli agent ls | tee "$work/agents"
for agent in reader writer orchestrator intruder; do
	grep -qE "^$agent +active" "$work/agents" || fail "agent ls does not list $agent"
done
cli trace --last 10 --agent orchestrator | tee "$work/traces"
correlation=$(awk '/call write:report/ { print $2 }' "$work/traces" | tail -n 1)
cli trace "$correlation" | tee "$work/trace"
for line in 'orchestrator → writer  call write:report' 'writer → reader  call read:logs' 'lent orchestrator → writer' 'taken by orchestrator'; do
	grep -qF "$line" "$work/trace" || fail "the trace does not have: $line"
done
cli trace --denied --agent intruder

say "one control plane of two is enough, whichever it is"
works() { cli agent set reader --label "without=$1" >/dev/null 2>&1; }
for gone in server-a server-b; do
	compose stop "$gone"
	wait_for works "$gone" || fail "nothing works without $gone"
	compose start "$gone"
	wait_for healthy "$gone" || fail "$gone did not come back"
done

say "who is suspended is out, and back when it is resumed"
cli agent suspend writer --reason drill
tells orchestrator 'no report:'
cli agent resume writer >/dev/null
reports() { compose logs --no-color orchestrator | grep -cF 'got from writer'; }
more() { [ "$(reports)" -gt "$1" ]; }
wait_for more "$(reports)" || fail "no report after the resume"

say "a second up changes nothing"
compose up -d
wait_for more "$(reports)" || fail "no report after the second up"

say "without a control plane a new connection is unavailable, not denied"
compose stop server-a server-b
status=0
cli --timeout 5s status || status=$?
[ "$status" -eq 4 ] || fail "exit code $status, want 4 (unavailable)"
compose start server-a server-b
wait_for cli --timeout 20s status >/dev/null || fail "the control planes did not come back"

say "everything restarts"
compose restart nats server-a server-b
wait_for more "$(reports)" || fail "no report after the restart"

say "a revoked intruder does not come back"
cli agent revoke intruder --reason drill || [ $? -eq 4 ] # a server that was restarted is waited for
compose run --rm --no-deps intruder 2>&1 | tee "$work/again" || true
grep -qF 'denied: revoked' "$work/again" || fail "a revoked intruder was let in"

say "the compose file does what it promises"
