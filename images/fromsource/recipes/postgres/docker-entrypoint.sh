#!/bin/bash
# Starts PostgreSQL. Where PGDATA is empty it first makes a database cluster there,
# steered by the variables that users of docker.io/library/postgres know:
#
#   POSTGRES_PASSWORD          the superuser's password; required unless the method is trust
#   POSTGRES_USER              the superuser; default postgres
#   POSTGRES_DB                a database to create; default: the superuser's name
#   POSTGRES_INITDB_ARGS       more arguments for initdb, apart by blanks; quotes mean nothing
#   POSTGRES_HOST_AUTH_METHOD  how clients over TCP prove who they are; default scram-sha-256
#   PGDATA                     where the cluster lies
#
# Instead of each POSTGRES_… there may be POSTGRES_…_FILE, a file to read it from. Then
# it runs what lies in /docker-entrypoint-initdb.d in the order of the names: *.sh (by
# bash -e where it is not executable), *.sql and *.sql.gz.
#
# Other than there, a client on the loopback address needs the password as well: a
# proxy in the same pod comes from that address. Only the Unix socket is open to all
# who reach it.
#
# $PGDATA/.first-start exists from before the first file until all of that is done.
# Found at a later start, it says that the first one did not end, and that what lies
# around it holds nothing yet: it is removed, and made anew.
set -euo pipefail
shopt -s nullglob

say() { printf 'docker-entrypoint: %s\n' "$*" >&2; }
die() {
	say "$@"
	exit 1
}

# setting NAME DEFAULT exports NAME, out of the environment or the file NAME_FILE.
setting() {
	local name=$1 default=$2 from=$1_FILE
	if [[ -n ${!from-} ]]; then
		[[ -z ${!name-} ]] || die "both $name and $from are set: keep one of them"
		[[ -f ${!from} && -r ${!from} ]] || die "$from is ${!from}, which is no file that uid $EUID may read"
		export "$name=$(<"${!from}")"
		unset "$from"
	fi
	export "$name=${!name:-$default}"
}

# only_asks says whether the server is to print something and end.
only_asks() {
	local arg
	for arg; do
		case $arg in
		-\? | --help | -V | --version | -C | --describe-config) return 0 ;;
		esac
	done
	return 1
}

# step_down gives the folders to postgres and starts over as that user.
step_down() {
	mkdir -p "$PGDATA" /var/run/postgresql
	find "$PGDATA" /var/run/postgresql ! -user postgres -exec chown -h postgres:postgres {} + ||
		die "cannot give $PGDATA to the user postgres: start as uid 999, or with the capability CAP_CHOWN"
	HOME=/var/lib/postgresql exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$0" "$@"
}

# own_data makes PGDATA a folder that PostgreSQL accepts, or says why it cannot be.
own_data() {
	mkdir -p "$PGDATA" || die "cannot make $PGDATA as uid $EUID: mount a volume that it may write to"
	[[ -O $PGDATA ]] || die "$PGDATA belongs to uid $(stat -c %u "$PGDATA") and this is uid $EUID, but PostgreSQL wants to own it:" \
		"let PGDATA name a folder below the volume, or start as root"
	chmod g-w,o= "$PGDATA"
}

# read_settings gets and checks what a first start needs to know.
read_settings() {
	setting POSTGRES_PASSWORD ''
	setting POSTGRES_USER postgres
	setting POSTGRES_DB "$POSTGRES_USER"
	setting POSTGRES_INITDB_ARGS ''
	setting POSTGRES_HOST_AUTH_METHOD scram-sha-256
	case $POSTGRES_HOST_AUTH_METHOD in
	trust) say "POSTGRES_HOST_AUTH_METHOD is trust: whoever reaches the port is superuser" ;;
	*)
		[[ -n $POSTGRES_PASSWORD ]] || die "no password for the superuser $POSTGRES_USER: set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE," \
			"or, where anyone may have all of the data, POSTGRES_HOST_AUTH_METHOD=trust"
		;;
	esac
	[[ $POSTGRES_PASSWORD != *$'\n'* ]] || die "the superuser's password has more than one line"
}

# make_cluster fills PGDATA. initdb takes only an empty folder.
make_cluster() {
	local -a args=(--no-instructions --username="$POSTGRES_USER" --auth-local=trust --auth-host=scram-sha-256)
	local -a more
	read -r -d '' -a more <<<"$POSTGRES_INITDB_ARGS" || true
	[[ $POSTGRES_HOST_AUTH_METHOD != trust ]] || args+=(--auth-host=trust)
	args+=("${more[@]}" --pgdata="$mark/cluster")
	if [[ -n $POSTGRES_PASSWORD ]]; then
		initdb "${args[@]}" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD")
	else
		initdb "${args[@]}"
	fi
	mv "$mark"/cluster/* "$PGDATA"
	chmod --reference="$mark/cluster" "$PGDATA"
	rmdir "$mark/cluster"
	printf '\n# Clients over TCP: POSTGRES_HOST_AUTH_METHOD of the first start.\nhost all all all %s\n' \
		"$POSTGRES_HOST_AUTH_METHOD" >>"$PGDATA/pg_hba.conf"
	printf "\nlisten_addresses = '*'\n" >>"$PGDATA/postgresql.conf"
}

# serve_privately starts the server where only this script and what it runs find it:
# nobody takes a half-made database for one that is ready.
serve_privately() {
	local tries=0
	PGHOST=$(mktemp -d)
	export PGHOST PGPORT=5432 PGPASSWORD=$POSTGRES_PASSWORD
	trap abandon EXIT
	"$@" -c listen_addresses= -c unix_socket_directories="$PGHOST" -c port="$PGPORT" &
	server=$!
	until pg_isready --quiet; do
		kill -0 "$server" 2>/dev/null || die "the server for the first start ended; its last words are above"
		((++tries < 1200)) || die "the server for the first start did not answer within 2 minutes"
		sleep 0.1
	done
}

stop_privately() {
	trap - EXIT
	if [[ -n ${server-} ]]; then
		kill -INT "$server" 2>/dev/null || true
		wait "$server" || say "the server for the first start ended with status $?"
	fi
	rm -rf "$PGHOST"
	unset server PGHOST PGPORT PGPASSWORD
}

abandon() {
	stop_privately
	say "the first start in $PGDATA failed: the next one begins anew"
}

sql() {
	psql --no-psqlrc --no-password --quiet --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" "$@"
}

run_scripts() {
	local script
	for script in /docker-entrypoint-initdb.d/*; do
		case $script in
		*.sh)
			say "running $script"
			if [[ -x $script ]]; then "$script"; else bash -eo pipefail "$script"; fi
			;;
		*.sql)
			say "running $script"
			sql --dbname="$POSTGRES_DB" --file="$script"
			;;
		*.sql.gz)
			say "running $script"
			gunzip -c "$script" | sql --dbname="$POSTGRES_DB"
			;;
		*) say "leaving $script alone: neither *.sh, *.sql nor *.sql.gz" ;;
		esac
	done
}

# first_start makes the cluster unless there is one; "$@" is the server's command.
first_start() {
	local lock
	exec {lock}<"$PGDATA"
	flock --nonblock "$lock" || die "another process is at its first start in $PGDATA"
	mark=$PGDATA/.first-start
	if [[ -d $mark ]]; then
		say "the first start in $PGDATA did not end: beginning anew"
		find "$PGDATA" -mindepth 1 -maxdepth 1 ! -path "$mark" -exec rm -rf {} +
		rm -rf "$mark"
	fi
	if [[ ! -s $PGDATA/PG_VERSION ]]; then
		[[ -z $(ls -A "$PGDATA") ]] || die "$PGDATA is not empty, and holds no database cluster (no PG_VERSION):" \
			"let PGDATA name a folder of its own"
		read_settings
		say "making a database cluster in $PGDATA"
		mkdir "$mark"
		make_cluster
		serve_privately "$@"
		[[ $POSTGRES_DB == postgres ]] || sql --dbname=postgres --set=db="$POSTGRES_DB" <<<'CREATE DATABASE :"db"'
		run_scripts
		stop_privately
		sync "$PGDATA"/*.conf "$PGDATA"
		rmdir "$mark"
		say "the database cluster is ready"
	fi
	exec {lock}<&-
}

[[ ${1-} != -* ]] || set -- postgres "$@"
if [[ ${1-} != postgres ]] || only_asks "$@"; then
	exec "$@"
fi
[[ -n ${PGDATA-} ]] || die "PGDATA is not set: it names the folder of the database cluster"
((EUID != 0)) || step_down "$@"
trap 'exit 143' TERM
trap 'exit 130' INT
own_data
first_start "$@"
unset "${!POSTGRES_@}" # the server has no use for a password in its environment
exec "$@"
