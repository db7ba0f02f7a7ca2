package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/org/spire-vault-99-action/kindx"
)

// newCluster makes a cluster without a network. Its kubeconfig is in dir, where all that is
// kept of it goes.
func newCluster(ctx context.Context, c config, name string, workers int, dir string) (nodes []*kindx.Node, remove func() error, err error) {
	image, err := nodeImage(ctx)
	if err != nil {
		return nil, nil, err
	}
	cfg := kindx.Config{
		Name: name, Image: image, Workers: workers, DisableDefaultCNI: true, KubeProxyMode: "none",
		Kubeconfig: filepath.Join(dir, "kubeconfig"), StateDir: filepath.Join(dir, "state"),
		OnEvent: func(e kindx.Event) { c.log("%s", e) },
	}
	if _, err := kindx.Nodes(ctx, name); !errors.Is(err, kindx.ErrNotFound) {
		return nil, nil, fmt.Errorf("cluster %s is there already, of another run: wait for its end, or kind delete cluster --name %[1]s (%v)", name, err)
	}
	remove = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		return kindx.Delete(ctx, name, cfg)
	}
	if _, err := kindx.Ensure(ctx, cfg); err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	if nodes, err = kindx.Nodes(ctx, name); err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	return nodes, remove, nil
}

// nodeImage is one that the engine has, or "" for kind's own, which it then gets.
func nodeImage(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "kindest/node").Output()
	if err != nil {
		return "", fmt.Errorf("looking for a node image: docker image ls: %w: the engine must run", err)
	}
	for name := range strings.Lines(string(out)) {
		if name = strings.TrimSpace(name); !strings.Contains(name, "<none>") {
			return name, nil
		}
	}
	return "", nil
}
