package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/org/spire-vault-99-action/zerotrust"
)

// settings are what a step is to do, and where.
type settings struct {
	inputs
	environment

	intent zerotrust.Intent
	demo   bool // the intent is the demo's
	exists bool // the cluster is there already
}

// environment is what the runner and the shim say.
type environment struct {
	workspace string // the caller's checkout
	root      string // this action's checkout
	folder    string // of this step, there until the job ends
	cache     string // images and state, there longer where the runner is
	output    string // the file of GITHUB_OUTPUT
	summary   string // the file of GITHUB_STEP_SUMMARY
	revision  string // of this action, for the report
	runner    string // its image, for the report
	began     string // when the shim started, in milliseconds
	shim      bool   // stdin ends with the shim
}

func readEnvironment(getenv func(string) string) (environment, error) {
	e := environment{
		workspace: getenv("GITHUB_WORKSPACE"), root: getenv("ZEROTRUST_ACTION_ROOT"), folder: getenv("ZEROTRUST_ACTION_STATE"),
		output: getenv("GITHUB_OUTPUT"), summary: getenv("GITHUB_STEP_SUMMARY"),
		revision: strings.Trim(getenv("GITHUB_ACTION_REPOSITORY")+"@"+getenv("GITHUB_ACTION_REF"), "@"),
		runner:   strings.TrimSpace(getenv("ImageOS") + " " + getenv("ImageVersion")),
		began:    getenv("ZEROTRUST_ACTION_BEGAN"), shim: getenv("ZEROTRUST_ACTION_BEGAN") != "",
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	e.cache = filepath.Join(cache, "spire-vault-99")
	for _, need := range [][2]string{{"GITHUB_WORKSPACE", e.workspace}, {"ZEROTRUST_ACTION_ROOT", e.root}} {
		if need[1] == "" {
			return e, fmt.Errorf("%s is not set: this program is run by the action's shim (action/shim), as a step of a workflow", need[0])
		}
	}
	if e.folder == "" {
		if e.folder, err = os.MkdirTemp("", "zerotrust-"); err != nil {
			return e, fmt.Errorf("making a folder for this step: %w", err)
		}
	}
	return e, nil
}

// in makes a path of an input absolute: it is relative to the workspace.
func (e environment) in(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(e.workspace, path)
}

// readable is nil for a file that can be opened and has an end.
func readable(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no file (%s)", file, info.Mode())
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	return f.Close()
}

// decide puts inputs and environment together and reads the files that the inputs name. Its
// error has all faults.
func decide(in inputs, e environment) (settings, error) {
	s := settings{inputs: in, environment: e, demo: in.Intent == "", exists: in.Kubeconfig != "", intent: zerotrust.Precinct99()}
	s.Intent, s.Kubeconfig, s.ReportDir = e.in(in.Intent), e.in(in.Kubeconfig), e.in(in.ReportDir)
	var all []error
	if !s.demo {
		var err error
		if s.intent, err = zerotrust.ReadIntent(s.Intent); err != nil {
			all = append(all, fmt.Errorf("input intent: %w", err))
		}
	}
	if s.ClusterName != "" {
		s.intent.Name = s.ClusterName
	}
	if s.exists {
		if err := readable(s.Kubeconfig); err != nil {
			all = append(all, fmt.Errorf("input kubeconfig: %w", err))
		}
	} else {
		s.Kubeconfig = filepath.Join(s.folder, "kubeconfig")
	}
	return s, errors.Join(all...)
}
