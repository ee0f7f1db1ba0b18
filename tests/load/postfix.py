"""A Postfix of its own in a directory, as a peer: tuned for throughput after its TUNING_README."""
import os
import shutil
import signal
import subprocess

from pair import Process, can_connect, wait_until


def start_postfix(top, name, address, relayhost, extra="", env=None, wrap=lambda command: command):
    """Listens on address (host, port), sends everything to relayhost, the first of a list that takes
    it. top and all above it must be open to user postfix. env: for all its processes; wrap: of the
    command that starts them."""
    env = env or {}
    if env:
        extra += f"import_environment = MAIL_CONFIG MAIL_DEBUG MAIL_LOGTAG TZ {' '.join(env)}\n"
    etc, spool, data = (os.path.join(top, d) for d in ("etc", "spool", "data"))
    for d in (etc, spool, data):
        os.makedirs(d)
    for d in (top, etc, spool):
        os.chmod(d, 0o755)
    shutil.chown(data, "postfix")
    host, port = address
    with open(os.path.join(etc, "main.cf"), "w") as f:
        f.write(f"""compatibility_level = 3.6
queue_directory = {spool}
data_directory = {data}
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
maillog_file = {top}/mail.log
maillog_file_prefixes = /
mail_owner = postfix
setgid_group = postdrop
myhostname = {name}.example
mydestination =
local_recipient_maps =
alias_maps =
mynetworks = 10.0.0.0/8, 127.0.0.0/8
inet_interfaces = {host}
inet_protocols = ipv4
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_tls_security_level = may
relayhost = {relayhost[0]}
smtp_fallback_relay = {' '.join(relayhost[1:])}
smtp_connect_timeout = 3s
smtpd_client_connection_count_limit = 1000
smtpd_peername_lookup = no
disable_dns_lookups = yes
default_process_limit = 100
in_flow_delay = 0
initial_destination_concurrency = 20
default_destination_concurrency_limit = 50
smtp_connection_cache_destinations = {relayhost[0]}
smtp_connection_reuse_count_limit = 0
qmgr_message_active_limit = 100000
qmgr_message_recipient_limit = 100000
{extra}""")
    services = [f"{port} inet n - n - - smtpd", "pickup unix n - n 60 1 pickup",
                "cleanup unix n - n - 0 cleanup", "qmgr unix n - n 300 1 qmgr",
                "tlsmgr unix - - n 1000? 1 tlsmgr", "rewrite unix - - n - - trivial-rewrite",
                "bounce unix - - n - 0 bounce", "defer unix - - n - 0 bounce", "trace unix - - n - 0 bounce",
                "verify unix - - n - 1 verify", "flush unix n - n 1000? 0 flush",
                "proxymap unix - - n - - proxymap", "smtp unix - - n - - smtp", "relay unix - - n - - smtp",
                "error unix - - n - - error", "retry unix - - n - - error", "anvil unix - - n - 1 anvil",
                "scache unix - - n - 1 scache", "postlog unix-dgram n - n - 1 postlogd"]
    with open(os.path.join(etc, "master.cf"), "w") as f:
        f.write("\n".join(services) + "\n")
    subprocess.run(["postfix", "-c", etc, "check"], capture_output=True, timeout=30)
    p = Process(name, wrap(["env", *[f"{k}={v}" for k, v in env.items()], "/usr/lib/postfix/sbin/master",
                            "-c", etc, "-d"]), os.path.join(top, "log"))
    p.start()
    wait_until(f"{name} listens", lambda: can_connect(host, port), 20)
    p.mail_log = os.path.join(top, "mail.log")
    return p


def stop_postfix(p):
    """master ends its own processes on SIGTERM."""
    p.signal(signal.SIGTERM)
    wait_until("postfix ends", lambda: not p.alive, 15, 0.1)
