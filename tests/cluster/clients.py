"""Programs that others wrote talk to a pair: swaks, msmtp, curl, smtplib, nodemailer, and Postfix as
the client in front of it and as the next hop behind it."""
import os
import shutil
import smtplib
import ssl
import subprocess
import sys
import time

from case import LOAD, expect, scenario, wait_until
from pair import BUILD, Process
from postfix import start_postfix, stop_postfix

USER, PASSWORD = "app@client.example", "correct horse"


class Skip(Exception):
    """A program that this needs isn't here."""


def needs(*programs):
    for p in programs:
        if not shutil.which(p, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            raise Skip(f"{p} is not installed")


def run(what, *command, text=None, seconds=30, env=None):
    r = subprocess.run(command, input=text, capture_output=True, text=True, timeout=seconds,
                       env={**os.environ, **(env or {})})
    expect(r.returncode == 0, f"{what}: exit {r.returncode}\n{r.stdout[-1500:]}{r.stderr[-1500:]}")
    return r.stdout


def letter(uid, text="hello"):
    return (f"From: app@client.example\r\nTo: you@sink.example\r\nSubject: {uid}\r\n"
            f"Message-ID: <{uid}@client.example>\r\nX-Baton-Test: {uid}\r\n\r\n{text}\r\n.dot\r\n")


def arrives(t, uid, times=1):
    wait_until(f"{uid} arrives", lambda: len(t.books().delivered.get(uid, ())) >= times, 20, 0.05)
    expect(len(t.books().delivered[uid]) == times, f"{uid} arrived more than once")


def begin_with_tls(t, relay='[ "127.0.0.0/8" ]', **settings):
    """A pair with STARTTLS and AUTH on 25 and implicit TLS on 465; returns the primary."""
    cert, key, users = (os.path.join(t.dir, f) for f in ("cert.pem", "key.pem", "users"))
    run("openssl", "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-subj", "/CN=mx.baton.example", "-days", "2", "-keyout", key, "-out", cert)
    run("batonctl passwd", os.path.join(BUILD, "batonctl"), "passwd", users, USER, text=PASSWORD + "\n")
    listen = '( { address = "0.0.0.0:25"; tls = "starttls"; auth = "optional"; },' \
             ' { address = "0.0.0.0:465"; tls = "implicit"; auth = "required"; } )'
    pair = t.begin(load=False, listeners=listen, tls=f'{{ cert = "{cert}"; key = "{key}"; }}',
                   auth=f'{{ users = "{users}"; }}', relay_networks=relay, **settings)
    return pair.wait_in_sync()[0]


@scenario
def client_swaks(t):
    """swaks: plain relay is refused, STARTTLS with AUTH LOGIN and PLAIN, implicit TLS, PIPELINING."""
    needs("swaks")
    host = begin_with_tls(t).smtp[0]
    common = ["swaks", "--server", host, "-f", "app@client.example", "-t", "you@sink.example", "-S"]
    r = subprocess.run([*common, "--data", letter("swaks-open")], capture_output=True, text=True, timeout=30)
    expect(r.returncode != 0, "without AUTH from elsewhere nobody may relay")
    for uid, more in (("swaks-login", ["-tls", "-a", "LOGIN"]), ("swaks-plain", ["-tls", "-a", "PLAIN"]),
                      ("swaks-implicit", ["-tlsc", "-p", "465", "-a", "PLAIN"]),
                      ("swaks-pipeline", ["-tls", "-a", "PLAIN", "--pipeline"])):
        run(uid, *common, *more, "-au", USER, "-ap", PASSWORD, "--data", letter(uid))
        arrives(t, uid)
    r = subprocess.run([*common, "-tls", "-a", "PLAIN", "-au", USER, "-ap", "wrong"], capture_output=True,
                       text=True, timeout=60)
    expect(r.returncode != 0, "a wrong password is refused")


@scenario
def client_msmtp(t):
    needs("msmtp")
    host = begin_with_tls(t).smtp[0]
    for uid, port, starttls in (("msmtp-starttls", "25", "on"), ("msmtp-implicit", "465", "off")):
        run(uid, "msmtp", f"--host={host}", f"--port={port}", "--tls=on", f"--tls-starttls={starttls}",
            "--tls-certcheck=off", "--auth=on", f"--user={USER}", "--passwordeval=echo " + PASSWORD,
            "--from=app@client.example", "you@sink.example", text=letter(uid).replace("\r\n", "\n"))
        arrives(t, uid)


@scenario
def client_curl(t):
    needs("curl")
    host = begin_with_tls(t).smtp[0]
    for uid, url in (("curl-starttls", f"smtp://{host}:25"), ("curl-implicit", f"smtps://{host}:465")):
        path = os.path.join(t.dir, uid)
        with open(path, "w", newline="") as f:
            f.write(letter(uid))
        run(uid, "curl", "-sS", "--url", url, "--ssl-reqd", "-k", "--user", f"{USER}:{PASSWORD}",
            "--mail-from", "app@client.example", "--mail-rcpt", "you@sink.example", "-T", path)
        arrives(t, uid)


@scenario
def client_smtplib(t):
    """Python's smtplib, several messages and recipients a session, SMTPUTF8."""
    host = begin_with_tls(t).smtp[0]
    context = ssl._create_unverified_context()
    with smtplib.SMTP(host, 25, timeout=20) as s:
        s.starttls(context=context)
        s.login(USER, PASSWORD)
        for i in range(3):
            s.sendmail("app@client.example", ["x@sink.example", "y@sink.example"], letter(f"smtplib-{i}"))
        s.sendmail("app@client.example", ["jürgen@sink.example"], letter("smtplib-utf8").encode(),
                   mail_options=["SMTPUTF8", "BODY=8BITMIME"])
    with smtplib.SMTP_SSL(host, 465, timeout=20, context=context) as s:
        s.login(USER, PASSWORD)
        s.sendmail("app@client.example", ["z@sink.example"], letter("smtplib-implicit"))
    for i in range(3):
        arrives(t, f"smtplib-{i}", 2)
    arrives(t, "smtplib-utf8")
    arrives(t, "smtplib-implicit")


@scenario
def client_nodemailer(t):
    needs("node", "npm")
    modules = os.environ.get("BATON_NODE_MODULES") or os.path.join(BUILD, "node_modules")
    if not os.path.isdir(os.path.join(modules, "nodemailer")):
        raise Skip("nodemailer isn't installed (npm needs the network)")
    host = begin_with_tls(t).smtp[0]
    script = os.path.join(t.dir, "send.js")
    with open(script, "w") as f:
        f.write("""const m = require('nodemailer'); const [host, port, user, pass, uid] = process.argv.slice(2);
const t = m.createTransport({host, port: +port, secure: port === '465', requireTLS: true, pool: true,
  auth: {user, pass}, tls: {rejectUnauthorized: false}});
const one = i => t.sendMail({from: 'app@client.example', to: 'you@sink.example', subject: 'hi',
  text: 'hello\\n.dot', headers: {'X-Baton-Test': uid + i}});
Promise.all([0, 1, 2, 3, 4].map(one)).then(() => process.exit(0), e => { console.error(e); process.exit(1); });
""")
    for port in ("25", "465"):
        run("nodemailer", "node", script, host, port, USER, PASSWORD, f"nodemailer-{port}-",
            env={"NODE_PATH": modules})
        for i in range(5):
            arrives(t, f"nodemailer-{port}-{i}")


def postfix(t, name, address, relayhost):
    needs("postfix")
    os.chmod(t.dir, 0o755)
    return start_postfix(os.path.join(t.dir, name), name, address, relayhost,
                         "minimal_backoff_time = 2s\nmaximal_backoff_time = 2s\nqueue_run_delay = 2s\n")


@scenario
def postfix_in_front(t):
    """Postfix relays to the pair (both nodes listed); the primary is killed and Postfix goes on."""
    needs("postfix", "smtp-source")
    pair = t.begin(load=False)
    nodes = [f"[{n.smtp[0]}]:{n.smtp[1]}" for n in pair.nodes]
    front = postfix(t, "front", ("10.77.0.9", 2600), nodes)
    try:
        primary, standby = pair.wait_in_sync()
        journal = os.path.join(t.dir, "postfix.journal")
        source = Process("source", [sys.executable, os.path.join(LOAD, "source.py"), "--to",
                                    "10.77.0.9:2600", "--journal", journal, "--messages", "600", "--rate",
                                    "100", "--prefix", "pf-", "--sessions", "5"],
                         os.path.join(t.dir, "source.log"))
        source.journal = journal
        source.start()
        pair.loads.append(source)
        wait_until("mail arrives through Postfix", lambda: len(t.books().delivered) > 100, 30, 0.1)
        t.disturbances += 1
        primary.kill()
        wait_until("the standby takes over", lambda: standby.banner().startswith("220"), 20)
        primary.start()
        wait_until("the client is done", lambda: not source.alive, 60, 0.1)
        wait_until("all of it arrives", lambda: not t.books().lost(), 60, 0.3)
        # Postfix itself sends again what got no answer: at most its open connections.
        doubled = sum(t.books().doubled())
        expect(doubled <= 40, f"{doubled} doubled")
        t.notes.append(f"600 through Postfix, {doubled} doubled")
        pair.wait_in_sync(30)
    finally:
        stop_postfix(front)


@scenario
def postfix_behind(t):
    """Postfix as the next hop, which hands on to the sink."""
    needs("postfix")
    back = None
    pair = t.begin(load=False, routes='( { domain = "*"; via = "smtp://10.77.0.9:2601"; } )')
    try:
        back = postfix(t, "back", ("10.77.0.9", 2601), ["[10.77.0.9]:2525"])
        load = t.load(messages=500, sessions=5)
        wait_until("all is accepted", lambda: not load.alive, 60, 0.1)
        t.settle()
    finally:
        if back:
            stop_postfix(back)


@scenario
def smtp_corners(t):
    """What must be refused is, and what comes late in a session doesn't harm the next one."""
    pair = t.begin(load=False)
    primary, standby = pair.wait_in_sync()
    expect(standby.banner().startswith("421 4.3.2"), "a standby greets 421 4.3.2")
    with smtplib.SMTP(*primary.smtp, timeout=20) as s:
        s.ehlo()
        for name in ("pipelining", "size", "8bitmime", "smtputf8", "chunking", "enhancedstatuscodes", "dsn"):
            expect(s.has_extn(name), f"{name} is offered")
        expect(s.docmd("MAIL FROM:<a@client.example> SIZE=99999999999")[0] == 552, "SIZE beyond the limit")
        s.docmd("MAIL FROM:<a@client.example>")
        s.docmd("RCPT TO:<x@sink.example>")
        expect(s.docmd("DATA")[0] == 354, "DATA")
        s.sock.sendall(b"X-Baton-Test: smuggled\r\n\r\nbare\n.\nMAIL FROM:<evil@x>\r\n.\r\n")
        code = s.getreply()[0]
        expect(code in (550, 521, 554), f"a bare LF is refused, not {code}")
    with smtplib.SMTP(*primary.smtp, timeout=20) as s:
        s.ehlo()
        s.docmd("MAIL FROM:<a@client.example>")
        s.docmd("RCPT TO:<x@sink.example>")
        half = letter("bdat").encode()
        s.sock.sendall(b"BDAT %d\r\n%s" % (10, half[:10]))
        expect(s.getreply()[0] == 250, "BDAT chunk")
        s.sock.sendall(b"BDAT %d LAST\r\n%s" % (len(half) - 10, half[10:]))
        expect(s.getreply()[0] == 250, "BDAT LAST")
    arrives(t, "bdat")
    expect("smuggled" not in t.books().delivered, "a refused message never arrives")


def bounces(t):
    return [r for all_ in t.books().delivered.values() for _, r, _ in all_ if r == "back@client.example"]


@scenario
def bounces_and_deferrals(t):
    """A recipient that is refused makes a bounce to the sender; one that is deferred waits."""
    pair = t.begin(load=False)
    primary, _ = pair.wait_in_sync()
    with smtplib.SMTP(*primary.smtp, timeout=20) as s:
        s.sendmail("back@client.example", ["reject1@sink.example", "ok@sink.example"], letter("bounced"))
        s.sendmail("back@client.example", ["defer1@sink.example"], letter("deferred"))
        s.sendmail("", ["reject2@sink.example"], letter("no-bounce-for-a-bounce"))
    arrives(t, "bounced")
    wait_until("the bounce arrives", lambda: bounces(t), 20)
    wait_until("the deferred one is counted", lambda: primary.status()["queue"]["deferred"] == 1, 10)
    time.sleep(1)  # a second bounce, which must not come, would be here by now
    expect(len(bounces(t)) == 1, f"{len(bounces(t))} bounces")
    code, out, err = primary.ctl("--json", "queue", "list", "--state", "deferred")
    expect(code == 0 and "defer1@sink.example" in out, f"queue list: {code} {out}{err}")
    code, out, err = primary.ctl("queue", "cancel", "--all")
    expect(code == 0, f"queue cancel: {code} {out}{err}")
    wait_until("the queue is empty", lambda: primary.status()["queue"]["messages"] == 0, 10)
