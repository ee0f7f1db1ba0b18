"""The table for people, the CSV for scripts, the picture for the documentation (gnuplot)."""
import csv
import os
import statistics
import subprocess

FIGURES = ("accepted_per_s", "end_to_end_per_s", "cpu_us", "memory_mib", "written_kib", "flushes")
WAITS = ("dot_p50_ms", "dot_p99_ms", "flush_p50_ms", "flush_p99_ms")  # only with --latency
HEADS = ("accepted/s", "end to end/s", "CPU us", "MiB", "KiB written", "flushes")


def medians(samples):
    """Of each figure; None where a round has none."""
    out = {}
    for f in (*FIGURES, *WAITS):
        values = [s[f] for s in samples if s.get(f) is not None]
        out[f] = statistics.median(values) if values else None
    return out


def show(value, digits=0):
    return "-" if value is None else f"{value:.{digits}f}"


def table(found, contenders, sizes, base="postfix"):
    lines = [f"{'':9}{'bytes':>8}{'accepted/s':>12}{'x':>7}{'end to end/s':>14}{'x':>7}{'CPU us':>9}{'x':>7}"
             f"{'MiB':>7}{'KiB written':>13}{'flushes':>9}   (CPU, written, flushes: a message)"]
    for size in sizes:
        peer = found.get((base, size))
        peer = medians(peer) if peer else None
        for name in contenders:
            if (name, size) not in found:
                continue
            m = medians(found[name, size])
            x = {f: m[f] / peer[f] if peer and peer[f] and m[f] is not None else None for f in FIGURES}
            lines.append(f"{name:9}{size:8}{show(m['accepted_per_s']):>12}{show(x['accepted_per_s'], 2):>7}"
                         f"{show(m['end_to_end_per_s']):>14}{show(x['end_to_end_per_s'], 2):>7}{show(m['cpu_us']):>9}"
                         f"{show(x['cpu_us'], 2):>7}{show(m['memory_mib'], 1):>7}{show(m['written_kib'], 1):>13}"
                         f"{show(m['flushes'], 2):>9}")
    return "\n".join(lines)


def waits(found, contenders, sizes):
    """Of whom it was measured: a pair that waits for two flushes and a round trip shows in the ratio."""
    lines = [f"{'':9}{'bytes':>8}{'dot to 250: p50':>17}{'p99':>9}{'raw flush: p50':>17}{'p99':>9}   (ms, at half load)"]
    for size in sizes:
        for name in contenders:
            m = medians(found.get((name, size), []))
            if m["dot_p50_ms"] is not None:
                lines.append(f"{name:9}{size:8}{m['dot_p50_ms']:17.2f}{m['dot_p99_ms']:9.2f}"
                             f"{m['flush_p50_ms']:17.2f}{m['flush_p99_ms']:9.2f}")
    return "\n".join(lines)


def write_csv(path, found, about):
    with open(path, "w", newline="") as f:
        out = csv.writer(f)
        out.writerow(["contender", "bytes", "round", *about, *FIGURES, *WAITS])
        for (name, size), samples in found.items():
            for i, s in enumerate(samples, 1):
                out.writerow([name, size, i, *about.values(), *(show(s.get(k), 3) for k in (*FIGURES, *WAITS))])


def picture(path, found, contenders, sizes, title):
    """Bars of end to end per second, a group a size. SVG or PNG, as path ends."""
    data = path + ".dat"
    with open(data, "w") as f:
        f.write("bytes " + " ".join(contenders) + "\n")
        for size in sizes:
            rates = [show(medians(found[n, size])["end_to_end_per_s"]) if (n, size) in found else "NaN" for n in contenders]
            f.write(f'"{size // 1024} KiB" ' + " ".join(rates) + "\n")
    terminal = "svg size 800,420 font 'sans,12'" if path.endswith(".svg") else "pngcairo size 800,420"
    script = f"""set terminal {terminal}
set output '{path}'
set title '{title}'
set style data histogram
set style histogram clustered gap 1
set style fill solid 0.8 border -1
set ylabel 'messages/s, end to end'
set yrange [0:*]
set grid ytics
set key outside right
plot for [i=2:{len(contenders) + 1}] '{data}' using i:xtic(1) title columnheader(i)
"""
    r = subprocess.run(["gnuplot"], input=script, text=True, capture_output=True, timeout=60)
    os.unlink(data)
    return r.returncode == 0 or r.stderr
