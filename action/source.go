package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/org/spire-vault-99-action/internal/run"
	"github.com/org/spire-vault-99-action/zerotrust"
)

// source is where the go command builds the programs of a run.
type source struct {
	dir string
	// workspace are the modules that have to be seen together, for what is in one and what
	// is in the other; nil where one has all.
	workspace []string
}

const module = "github.com/org/spire-vault-99-action"

// sourceOf finds the module that the packages of an intent are in: the nearest one above the
// intent's file, and this action's for the demo and where nothing is built from a package.
// moduleOf tells a folder's module, "" for none.
func sourceOf(in zerotrust.Intent, file, root string, moduleOf func(dir string) string) (source, error) {
	builds := slices.ContainsFunc(in.Workloads, func(w zerotrust.Workload) bool { return w.Package != "" })
	if file == "" || !builds {
		return source{dir: root}, nil
	}
	for dir := filepath.Dir(file); ; dir = filepath.Dir(dir) {
		switch moduleOf(dir) {
		case "":
		case module:
			return source{dir: dir}, nil
		default:
			return source{dir: dir, workspace: []string{root, dir}}, nil
		}
		if dir == filepath.Dir(dir) {
			return source{}, fmt.Errorf("the intent names packages to build, and no go.mod lies beside %s or above it", file)
		}
	}
}

var moduleLine = regexp.MustCompile(`(?m)^module[ \t]+"?([^\s"]+)`)

// moduleAt is the module whose go.mod lies in dir.
func moduleAt(dir string) string {
	text, err := fs.ReadFile(os.DirFS(dir), "go.mod")
	if err != nil {
		return ""
	}
	if m := moduleLine.FindSubmatch(text); m != nil {
		return string(m[1])
	}
	return ""
}

// goWork makes a go.work of the modules in folder and returns its path, for GOWORK.
func goWork(ctx context.Context, folder string, modules []string) (string, error) {
	file := filepath.Join(folder, "go.work")
	if err := os.RemoveAll(file); err != nil {
		return "", err
	}
	err := run.Cmd{Argv: append([]string{"go", "work", "init"}, modules...), Dir: folder, Env: run.Environ("GOWORK=")}.Run(ctx)
	if err != nil {
		return "", fmt.Errorf("putting %s into one Go workspace: %w", strings.Join(modules, " and "), err)
	}
	return file, nil
}
