"""What operators do on purpose: deploys."""
import time

from matrix import charged, row, takeovers, wait_for
from rows_database import busy, long_turn


@row('28', 'rolling restart of each worker, scheduler and api, twice over, under load',
     '0 lost; 0 attempts charged; throughput ≥ 80 %', quick=True)
def rolling_restart(f):
    with f.stage() as stage:
        stage.standard(workers=3, schedulers=2, apis=2, worker={'drain': '1s'})
        end, before = busy(stage, 30, 4 if f.quick else 6)
        more = stage.load.keep_busy(10, long_turn)
        wait_for(1)
        start = time.time()
        for _ in range(1 if f.quick else 2):
            for old in stage.workers + stage.schedulers + stage.apis:
                restart(stage, old)
                wait_for(1)
        during = stage.load.rate(start, time.time())
        end()
        more()
        history = f.judge(stage)
        f.count('attempts charged', charged(history))
        f.spread('hand-back to running', takeovers(history, None, 'released'), None, 1)
        f.least('throughput', 100 * during / before, 80, ' %')


def restart(stage, old):
    """SIGTERM; the next one is started when it has gone, as a deploy does that has one place for it."""
    old.term()
    old.wait(30)
    old.check()
    if old in stage.workers:
        stage.workers.remove(old)
        stage.worker(drain='1s')
    else:
        stage.replace(old)
