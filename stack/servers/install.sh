#!/bin/sh
# Installs Debian packages as root and starts nothing: `sh stack/servers/install.sh PACKAGE...`
#
# A package's scripts would start its server on its well-known port, now and at each boot. Headrace only wants the
# binaries. So during the installation a policy-rc.d refuses every start, PostgreSQL creates no cluster, and new units are
# disabled. Afterwards the machine's former files are restored, even after a kill: the next run finds the saved file.
# Services that were installed before keep their state.
set -eu

policy=/usr/sbin/policy-rc.d
saved=$policy.before-headrace
no_cluster=/etc/postgresql-common/createcluster.d/headrace.conf
units="postgresql.service rabbitmq-server.service redis-server.service epmd.socket epmd.service \
    docker.socket docker.service containerd.service"

restore() {
    rm -f "$no_cluster"
    rmdir /etc/postgresql-common/createcluster.d /etc/postgresql-common 2>/dev/null || :
    if [ -e "$saved" ]; then
        mv -f "$saved" "$policy"
    elif [ "$(sed -n 2p "$policy" 2>/dev/null)" = "# headrace" ]; then
        rm -f "$policy"
    fi
}

forbid_starts() {
    if [ -e "$policy" ]; then mv -f "$policy" "$saved"; fi
    printf '#!/bin/sh\n# headrace\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    mkdir -p "${no_cluster%/*}"
    echo 'create_main_cluster = false' >"$no_cluster"
}

# A link in a *.wants directory makes a unit start at boot. The links are handled directly: systemctl may be missing
# (packages enable their units in containers too), and deb-systemd-helper works only for maintainer scripts.
boot_links() {
    for unit in $units; do
        for link in /etc/systemd/system/*.wants/"$unit"; do
            if [ -L "$link" ]; then echo "$link"; fi
        done
    done
}

disable_new_units() { # LINKS: those that existed before
    for link in $(boot_links); do
        case " $1 " in
            *" $link "*) ;;
            *) rm -f "$link" ;;
        esac
    done
}

# A stale package list names files that the mirror has replaced: update and try again.
apt_install() {
    apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
}
install_packages() {
    if apt-get install -s "$@" >/dev/null 2>&1 && apt_install "$@"; then return 0; fi
    apt-get update -o DPkg::Lock::Timeout=300
    apt_install "$@"
}

if [ "${HEADRACE_INSTALL_LOCKED:-}" != 1 ]; then
    HEADRACE_INSTALL_LOCKED=1 exec flock /run/lock/headrace-install.lock sh "$0" "$@"
fi
export DEBIAN_FRONTEND=noninteractive
# Ctrl-C and a closed terminal stop the caller, never dpkg halfway.
trap '' INT HUP TERM
trap restore EXIT
restore
had=$(boot_links | tr '\n' ' ')
forbid_starts
install_packages "$@"
disable_new_units "$had"
