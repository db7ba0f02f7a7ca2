// Command shim stands in front of runc where CAP_SYS_RESOURCE is missing from
// the bounding set, as in some virtual machines and in every container that
// such a host starts. There, runc fails on each container that asks for all
// capabilities or for a negative OOM score. On create and run it removes the
// capability from the bundle's config.json and lifts a negative oomScoreAdj to
// 0; on exec it does the same to the --process file. Then it becomes runc, with
// the same arguments. Where the capability is there, it changes nothing.
//
// It imports nothing but the standard library: it is built from its source
// wherever it is needed.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// envRunc names the real runtime, before anything else.
const envRunc = "OCI_SHIM_RUNC"

// realRunc is where the real runtime lies; set at build by -ldflags -X.
var realRunc string

const (
	capability    = "CAP_SYS_RESOURCE"
	capabilityBit = 24 // include/uapi/linux/capability.h
)

func main() {
	err := shim(os.Args)
	fmt.Fprintln(os.Stderr, "oci shim:", err)
	os.Exit(1)
}

// shim returns only on an error: else the process has become runc.
func shim(argv []string) error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	missing, err := capabilityMissing(string(status))
	if err != nil {
		return err
	}
	if missing {
		if err := rewriteFor(argv[1:]); err != nil {
			return err
		}
	}
	runc, err := findRunc()
	if err != nil {
		return err
	}
	err = syscall.Exec(runc, append([]string{runc}, argv[1:]...), os.Environ())
	return fmt.Errorf("start %s: %w", runc, err)
}

// capabilityMissing reads the bounding set out of a /proc/<pid>/status.
func capabilityMissing(status string) (bool, error) {
	for line := range strings.Lines(status) {
		set, ok := strings.CutPrefix(line, "CapBnd:")
		if !ok {
			continue
		}
		bits, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
		if err != nil {
			return false, fmt.Errorf("read the bounding set: %w", err)
		}
		return bits&(1<<capabilityBit) == 0, nil
	}
	return false, errors.New("read the bounding set: no CapBnd line in the process status")
}

// rewriteFor changes the file that a call of runc with these arguments will
// read, if it reads one of those that matter.
func rewriteFor(args []string) error {
	command, rest := splitCommand(args)
	switch command {
	case "create", "run":
		bundle, ok := flagValue(rest, runcValueFlags, "bundle", "b")
		if !ok {
			bundle = "."
		}
		return rewriteFile(filepath.Join(bundle, "config.json"), rewriteSpec)
	case "exec":
		// Without the file the process gets the container's capabilities,
		// which were cut when it was created.
		if process, ok := flagValue(rest, execValueFlags, "process", "p"); ok {
			return rewriteFile(process, rewriteProcess)
		}
	}
	return nil
}

// Flags that take the next argument as their value, when it is not given
// behind "=". https://github.com/opencontainers/runc, main.go, create.go,
// run.go and exec.go; like Go's flag package, one dash is as good as two.
var (
	globalValueFlags = []string{"log", "log-format", "root", "criu", "rootless"}
	runcValueFlags   = []string{"bundle", "b", "console-socket", "pidfd-socket", "pid-file", "preserve-fds"}
	execValueFlags   = []string{
		"console-socket", "pidfd-socket", "cwd", "env", "e", "user", "u", "additional-gids", "g", "process", "p",
		"pid-file", "process-label", "apparmor", "cap", "c", "preserve-fds", "cgroup",
	}
)

// splitCommand finds the subcommand behind the global flags.
func splitCommand(args []string) (command string, rest []string) {
	for i := 0; i < len(args); i++ {
		name, _, inline, isFlag := parseFlag(args[i])
		if !isFlag {
			return args[i], args[i+1:]
		}
		if !inline && slices.Contains(globalValueFlags, name) {
			i++
		}
	}
	return "", nil
}

// flagValue is the value of the flag of these names; the last one counts. The
// flags end at the first other argument, which is the container's ID.
func flagValue(args, takesValue []string, names ...string) (value string, found bool) {
	for i := 0; i < len(args); i++ {
		name, v, inline, isFlag := parseFlag(args[i])
		if !isFlag {
			break
		}
		if !inline && slices.Contains(takesValue, name) {
			i++
			if i == len(args) {
				break
			}
			v = args[i]
		}
		if slices.Contains(names, name) {
			value, found = v, true
		}
	}
	return value, found
}

func parseFlag(arg string) (name, value string, inline, isFlag bool) {
	if len(arg) < 2 || arg[0] != '-' || arg == "--" {
		return "", "", false, false
	}
	name = strings.TrimPrefix(arg[1:], "-")
	name, value, inline = strings.Cut(name, "=")
	return name, value, inline, true
}

func rewriteFile(path string, rewrite func([]byte) ([]byte, error)) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	before, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	after, err := rewrite(before)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if bytes.Equal(before, after) {
		return nil
	}
	return os.WriteFile(path, after, info.Mode().Perm())
}

// object keeps what it does not know byte for byte.
type object map[string]json.RawMessage

// rewriteSpec cuts the process of a whole OCI runtime spec. What needs no cut
// comes back as it was.
func rewriteSpec(doc []byte) ([]byte, error) {
	return rewriteField(doc, "process", rewriteProcess)
}

func rewriteProcess(doc []byte) ([]byte, error) {
	doc, err := rewriteField(doc, "capabilities", rewriteCapabilities)
	if err != nil {
		return nil, err
	}
	return rewriteField(doc, "oomScoreAdj", func(score []byte) ([]byte, error) {
		var n int64
		if err := json.Unmarshal(score, &n); err != nil {
			return nil, err
		}
		if n < 0 {
			return []byte("0"), nil
		}
		return score, nil
	})
}

func rewriteCapabilities(doc []byte) ([]byte, error) {
	for _, set := range []string{"bounding", "effective", "permitted", "inheritable", "ambient"} {
		var err error
		doc, err = rewriteField(doc, set, func(names []byte) ([]byte, error) {
			var list []string
			if err := json.Unmarshal(names, &list); err != nil {
				return nil, err
			}
			if !slices.Contains(list, capability) {
				return names, nil
			}
			return encode(slices.DeleteFunc(list, func(name string) bool { return name == capability }))
		})
		if err != nil {
			return nil, err
		}
	}
	return doc, nil
}

// rewriteField changes one field of a JSON object, if it is there.
func rewriteField(doc []byte, field string, rewrite func([]byte) ([]byte, error)) ([]byte, error) {
	var o object
	if err := json.Unmarshal(doc, &o); err != nil {
		return nil, fmt.Errorf("read the object that holds %s: %w", field, err)
	}
	before, ok := o[field]
	if !ok || string(before) == "null" {
		return doc, nil
	}
	after, err := rewrite(before)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	if bytes.Equal(before, after) {
		return doc, nil
	}
	o[field] = after
	return encode(o)
}

func encode(v any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// findRunc is the real runtime: what the environment says, what was built in,
// runc.real beside this program, or the first other runc in PATH.
func findRunc() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	me, err := os.Stat(self)
	if err != nil {
		return "", err
	}
	candidates := []string{os.Getenv(envRunc), realRunc, filepath.Join(filepath.Dir(self), "runc.real")}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		candidates = append(candidates, filepath.Join(dir, "runc"))
	}
	for _, c := range candidates {
		if c == "" {
			continue
		}
		path, err := exec.LookPath(c)
		if err != nil {
			continue
		}
		// Becoming oneself would never end.
		if it, err := os.Stat(path); err == nil && !os.SameFile(it, me) {
			return path, nil
		}
	}
	return "", fmt.Errorf("no runc found, tried %q: install runc, or set %s to its path", candidates, envRunc)
}
