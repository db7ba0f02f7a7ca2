package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// state is what the main step leaves to the post step, which also runs where the main step
// was killed. It is in the step's folder.
type state struct {
	Cluster string `json:"cluster"` // the kind cluster of this step; "" for none
	// Ours says that there may be something of it that this step made, or took over as its own.
	Ours    bool   `json:"ours"`
	Cleanup string `json:"cleanup"`
	Result  result `json:"result"` // "" until there is one
	Logged  bool   `json:"logged"` // logs have been exported
	LogsDir string `json:"logsDir"`
	// Kubeconfig and Cache are where the run had its own.
	Kubeconfig  string `json:"kubeconfig"`
	Cache       string `json:"cache"`
	TrustDomain string `json:"trustDomain"`
}

// removes says whether the cluster is to go now, and if not, why.
func (s state) removes() (yes bool, why string) {
	switch {
	case s.Cluster == "" || !s.Ours:
		return false, "there is no cluster of this step"
	case s.Cleanup == cleanupNever:
		return false, "cleanup is never"
	case s.Cleanup == cleanupOnSuccess && s.Result != passed:
		return false, "cleanup is on-success, and this is none"
	}
	return true, ""
}

const stateFile = "state.json"

// save writes the state so that a reader finds it whole, old or new.
func (s state) save(folder string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	file := filepath.Join(folder, stateFile)
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		return fmt.Errorf("noting what is to be cleaned up: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("noting what is to be cleaned up: %w", err)
	}
	return nil
}

// loadState is the zero state where the main step came to nothing.
func loadState(folder string) (state, error) {
	text, err := os.ReadFile(filepath.Join(folder, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	var s state
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return state{}, fmt.Errorf("reading what is to be cleaned up: %w", err)
	}
	return s, nil
}
