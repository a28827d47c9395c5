"""Builds of other versions than this one, kept under $BUILD/versions: `following()` is this tree with
a migration more, which expands all that a release may expand; `previous()` is the last commit
before the newest migration. Both as folders for `build=` of the harness."""
import glob
import os
import shutil
import subprocess

from harness import BUILD, ROOT, program

FOLDER = os.path.join(BUILD, 'versions')
SOURCES = ('lib', 'api', 'worker', 'scheduler', 'sql')
# Columns in tables of the hot path, so that cached plans change their result types; functions of
# another text, so that they are replaced under running programs.
EXPAND_TABLES = """
alter table nocturne.task add column next_note text;
alter table nocturne.worker add column next_weight int not null default 1;
alter table nocturne.lease add column next_note text;
alter table nocturne.done add column next_note text;
create table nocturne.next_thing (task_id uuid primary key, note text);
create index next_done_by_note on nocturne.done (next_note) where next_note is not null;
"""
EXPAND_FUNCTIONS = """
create or replace function nocturne.next_call(p_task uuid) returns text language sql
begin atomic
    select next_note from nocturne.task where task_id = p_task;
end;
"""


class Cannot(Exception):
    """There is no such version here, with the reason."""


def sanitized():
    with open(program('nocturne-worker'), 'rb') as f:
        return b'__asan_init' in f.read()


def make(folder):
    """Build the programs of a source tree; where they are."""
    argv = ['make', '-s', '-j2', 'BUILD=build', 'all'] + (['SAN=1'] if sanitized() else [])
    if shutil.which('ccache'):
        argv.append('CC=ccache gcc')
    env = {k: v for k, v in os.environ.items() if k not in ('MAKEFLAGS', 'MFLAGS', 'BUILD')}
    done = subprocess.run(argv, cwd=folder, env=env, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return os.path.join(folder, 'build')


def write_changed(path, text):
    """Leave a file alone that has this text, so that make does."""
    if os.path.exists(path):
        with open(path) as f:
            if f.read() == text:
                return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as f:
        f.write(text)


def following():
    folder = os.path.join(FOLDER, 'following')
    texts = {}
    for path in ['Makefile'] + [p for s in SOURCES for p in
                                glob.glob(s + '/**', root_dir=ROOT, recursive=True)]:
        if os.path.isfile(os.path.join(ROOT, path)):
            with open(os.path.join(ROOT, path)) as f:
                texts[path] = f.read()
    newest = max(os.path.basename(p) for p in texts if p.startswith('sql/schema/'))
    texts['sql/schema/%03d_next.sql' % (int(newest[:3]) + 1)] = EXPAND_TABLES
    texts['sql/functions/zz_next.sql'] = EXPAND_FUNCTIONS
    for path in glob.glob('**', root_dir=folder, recursive=True):
        if not path.startswith('build') and path not in texts and \
                os.path.isfile(os.path.join(folder, path)):
            os.unlink(os.path.join(folder, path))
    for path, text in texts.items():
        write_changed(os.path.join(folder, path), text)
    os.chmod(os.path.join(folder, 'sql/embed.sh'), 0o755)
    return make(folder)


def git(*argv):
    try:
        return subprocess.run(['git', '-C', ROOT, *argv], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as e:
        raise Cannot('git %s: %s' % (argv[0], getattr(e, 'stderr', e))) from None


def archive(commit, folder):
    giving = subprocess.Popen(['git', '-C', ROOT, 'archive', commit], stdout=subprocess.PIPE)
    subprocess.run(['tar', '-x', '-C', folder], stdin=giving.stdout, check=True)
    if giving.wait() != 0:
        raise Cannot('git archive %s failed' % commit)


def previous():
    """Cannot when there is no history, or no version before this one's migrations."""
    if git('rev-parse', '--is-shallow-repository') == 'true':
        raise Cannot('the clone is shallow')
    newest = git('log', '-1', '--diff-filter=A', '--format=%H', '--', 'sql/schema')
    commit = git('rev-parse', newest + '^')
    theirs = git('ls-tree', '--name-only', commit, 'sql/schema/').split()
    ours = sorted(glob.glob('sql/schema/*.sql', root_dir=ROOT))

    def same(name):
        with open(os.path.join(ROOT, name)) as f:
            return f.read().strip() == git('show', '%s:%s' % (commit, name))
    if not theirs or theirs != ours[:len(theirs)] or not all(map(same, theirs)):
        raise Cannot('the migrations of %s are no beginning of ours: it was never released'
                     % commit[:8])
    folder = os.path.join(FOLDER, commit[:12])
    if not os.path.isdir(folder):
        os.makedirs(folder + '.new', exist_ok=True)
        archive(commit, folder + '.new')
        os.rename(folder + '.new', folder)
    return make(folder)
