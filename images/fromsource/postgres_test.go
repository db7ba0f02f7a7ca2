package fromsource

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What the entry point of the postgres image runs, as far as it looks at it.
var postgresPrograms = map[string]string{
	// Makes what initdb makes, and tells what it was called with.
	"initdb": `for a; do case $a in
--pgdata=*) d=${a#*=} ;;
--pwfile=*) echo "initdb password $(cat "${a#*=}")" ;;
--auth* | --username=* | --data*) echo "initdb $a" ;;
esac; done
mkdir "$d" && echo 15 > "$d/PG_VERSION" && touch "$d/pg_hba.conf" "$d/postgresql.conf"`,
	// Serves until it is interrupted where nobody is to reach it; else its words end the test.
	"postgres": `case "$*" in
*listen_addresses=\ *) echo $$ > "$PGHOST/pid" && exec env --default-signal=INT sleep 60 ;;
esac
echo "serving: $*, password ${POSTGRES_PASSWORD-unset}"`,
	"pg_isready": `grep -q sleep "/proc/$(cat "$PGHOST/pid")/comm"`,
	"psql":       `echo "psql $* $(cat)"`,
}

// The decisions of the entry point, with stand-ins for the programs of PostgreSQL,
// which run for real where the tests bring up a cluster.
func TestPostgresEntrypoint(t *testing.T) {
	for name, tc := range map[string]struct {
		env   []string
		files map[string]string // in PGDATA at the start
		argv  []string
		fails bool
		want  []string // words of the output
		not   string   // no word of the output
	}{
		"another command":     {argv: []string{"echo", "postgres"}, want: []string{"postgres\n"}},
		"only asks":           {argv: []string{"-V"}, want: []string{"serving: -V"}},
		"no password":         {argv: []string{"postgres"}, fails: true, want: []string{"no password for the superuser postgres"}},
		"password twice":      {env: []string{"POSTGRES_PASSWORD=s3cret", "POSTGRES_PASSWORD_FILE=/x"}, argv: []string{"postgres"}, fails: true, want: []string{"keep one of them"}, not: "s3cret"},
		"unreadable password": {env: []string{"POSTGRES_PASSWORD_FILE=/none"}, argv: []string{"postgres"}, fails: true, want: []string{"POSTGRES_PASSWORD_FILE is /none"}},
		"two lines":           {env: []string{"POSTGRES_PASSWORD=s3cret\nx"}, argv: []string{"postgres"}, fails: true, want: []string{"more than one line"}, not: "s3cret"},
		"other files":         {env: []string{"POSTGRES_PASSWORD=p"}, files: map[string]string{"mine": "x"}, argv: []string{"postgres"}, fails: true, want: []string{"is not empty, and holds no database cluster"}},
		"a cluster":           {files: map[string]string{"PG_VERSION": "15"}, argv: []string{"-c", "a=b"}, want: []string{"serving: -c a=b, password unset"}, not: "initdb"},
		"first start": {
			env:  []string{"POSTGRES_PASSWORD=s3 cret", "POSTGRES_USER=boss", "POSTGRES_DB=app", "POSTGRES_INITDB_ARGS=--data-checksums  --auth-local=md5"},
			argv: []string{"-c", "a=b"},
			want: []string{"initdb password s3 cret", "--username=boss", "initdb --auth-local=md5", "--data-checksums", `--set=db=app CREATE DATABASE :"db"`, "serving: -c a=b, password unset"},
		},
		"trust":       {env: []string{"POSTGRES_HOST_AUTH_METHOD=trust"}, argv: []string{"postgres"}, want: []string{"whoever reaches the port", "initdb --auth-host=trust", "serving"}, not: "initdb password"},
		"interrupted": {env: []string{"POSTGRES_PASSWORD=p"}, files: map[string]string{".first-start/cluster/x": "", "PG_VERSION": "15", "base/1": ""}, argv: []string{"postgres"}, want: []string{"did not end: beginning anew", "initdb password", "serving"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, out, err := runPostgresEntrypoint(t, tc.env, tc.files, tc.argv)
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if failed := err != nil; failed != tc.fails {
				t.Errorf("failed: %v, want %v", failed, tc.fails)
			}
			for _, want := range tc.want {
				if !strings.Contains(out, want) {
					t.Errorf("nothing of %q", want)
				}
			}
			if tc.not != "" && strings.Contains(out, tc.not) {
				t.Errorf("something of %q", tc.not)
			}
			for _, gone := range []string{".first-start", "base"} {
				if _, err := os.Lstat(filepath.Join(data, gone)); err == nil {
					t.Errorf("%s is still there", gone)
				}
			}
			if t.Failed() {
				t.Logf("output:\n%s", out)
			}
		})
	}
}

// runPostgresEntrypoint runs the script of the recipe as a user who is not root,
// and returns its PGDATA and what it said.
func runPostgresEntrypoint(t *testing.T, env []string, files map[string]string, argv []string) (data, out string, err error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "postgres-*") // not t.TempDir, which is for root alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string, mode os.FileMode) string {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
		return name
	}
	script, err := recipeFiles.ReadFile("recipes/postgres/docker-entrypoint.sh")
	if err != nil {
		t.Fatal(err)
	}
	entry := write("docker-entrypoint.sh", string(script), 0o755)
	for name, text := range postgresPrograms {
		write("bin/"+name, "#!/bin/bash\n"+text+"\n", 0o755)
	}
	data = filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		write("data/"+name, text, 0o644)
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "bash", append([]string{entry}, argv...)...)
	cmd.Env = append(env, "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"), "PGDATA="+data)
	cmd.Stdout, cmd.Stderr = &said, &said
	if os.Geteuid() == 0 {
		const nobody = 65534
		if err := chownAll(data, nobody); err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	err = cmd.Run()
	return data, said.String(), err
}

func chownAll(dir string, id int) error {
	return filepath.WalkDir(dir, func(name string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chown(name, id, id))
	})
}
