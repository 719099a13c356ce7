#!/usr/bin/env bash
# A kubectl that keeps what it is given, below $CLUSTER: namespaces as folders, with
# secret/NAME/KEY and configmap/NAME/KEY. It knows the commands of the README alone.
# exec runs what follows in a folder of its own if $CLUSTER/operator is there.
set -euo pipefail
echo "$*" >>"$CLUSTER/log"
namespace=default
if [ "$1" = -n ]; then
	namespace=$2
	shift 2
fi
unknown() {
	echo "kubectl.sh: unknown: $*" >&2
	exit 2
}
case "$1 $2" in
"create namespace") mkdir "$CLUSTER/$3" ;;
"create secret" | "create configmap")
	kind=$2
	shift 2
	if [ "$kind" = secret ]; then
		[ "$1" = generic ] || unknown "$@"
		shift
	fi
	to=$CLUSTER/$namespace/$kind/$1
	shift
	[ -d "$CLUSTER/$namespace" ] || unknown "namespace $namespace"
	mkdir -p "${to%/*}"
	mkdir "$to"
	for arg; do
		value=${arg#--from-*=}
		case $arg in
		--from-literal=*) printf %s "${value#*=}" >"$to/${value%%=*}" ;;
		--from-file=*=*) cp "${value#*=}" "$to/${value%%=*}" ;;
		--from-file=*)
			if [ -d "$value" ]; then
				find "$value" -mindepth 1 -maxdepth 1 -type f -exec cp {} "$to/" \;
			else
				cp "$value" "$to/"
			fi
			;;
		*) unknown "$arg" ;;
		esac
	done
	;;
"delete namespace") rm -r "${CLUSTER:?}/$3" ;;
"delete configmap") rm -r "${CLUSTER:?}/$namespace/configmap/$3" ;;
"delete pod") rm -rf "${CLUSTER:?}/operator" ;;
"apply -f" | "delete -f")
	shift
	while [ $# -gt 0 ]; do
		[ "$1" = --ignore-not-found ] && break
		[ "$1" = -f ] && [ -f "$2" ] || unknown "$@"
		shift 2
	done
	;;
"label namespace") [ -d "$CLUSTER/$3" ] ;;
"rollout status" | "wait "*) ;;
"exec "*)
	shift
	[ "$1" = -i ] && shift
	[ "$1" = operator ] && [ "$2" = -- ] || unknown "$@"
	shift 2
	[ -d "$CLUSTER/operator" ] || exit 0
	cd "$CLUSTER/operator"
	SEALMESH_MESH=$PWD exec "$@"
	;;
*) unknown "$@" ;;
esac
