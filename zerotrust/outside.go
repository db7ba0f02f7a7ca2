package zerotrust

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	corev1 "k8s.io/api/core/v1"

	"github.com/org/spire-vault-99-action/kindx"
	"github.com/org/spire-vault-99-action/zerotrust/probe"
)

// proberPath is where the prober lies in the container outside the cluster.
const proberPath = "/prober"

// probeFromOutside tries the cell's port at a pod's own address, from a container that is
// no part of the cluster.
func (s *Stack) probeFromOutside(ctx context.Context, cell Cell, timeout time.Duration) (probe.Attempt, error) {
	target, err := s.target(ctx, cell)
	if err != nil {
		return probe.Attempt{}, err
	}
	outside, err := s.outside(ctx)
	if err != nil {
		return probe.Attempt{}, err
	}
	var printed bytes.Buffer
	if err := outside.Exec(ctx, nil, &printed, probe.Argv(proberPath, target, timeout)...); err != nil {
		return probe.Attempt{}, err
	}
	return probe.Parse(printed.String(), target)
}

// outside is the container, started once, with the prober in it.
func (s *Stack) outside(ctx context.Context) (*kindx.Outside, error) {
	built, err := s.program(ctx, proberPackage)
	if err != nil {
		return nil, err
	}
	s.loading.Lock()
	defer s.loading.Unlock()
	if s.beside != nil {
		return s.beside, nil
	}
	nodes, err := s.members(ctx)
	if err != nil {
		return nil, err
	}
	var routes []kindx.Route
	for _, n := range nodes {
		r, err := routeTo(n)
		if err != nil {
			return nil, err
		}
		routes = append(routes, r)
	}
	img, _ := s.resolved(built.ref)
	binary, err := fileOf(img, "app/prober")
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", built.ref, err)
	}
	o, err := kindx.RunOutside(ctx, s.cfg.Intent.Name, routes, "")
	if err != nil {
		return nil, err
	}
	s.atClose(func() error { return o.Close(context.Background()) })
	if err := o.Exec(ctx, bytes.NewReader(binary), nil, "sh", "-c", "cat > "+proberPath+" && chmod 755 "+proberPath); err != nil {
		return nil, err
	}
	s.beside = o
	return o, nil
}

// routeTo is the way to the pods of a node.
func routeTo(n corev1.Node) (kindx.Route, error) {
	pods, err := netip.ParsePrefix(n.Spec.PodCIDR)
	if err != nil {
		return kindx.Route{}, fmt.Errorf("the pods' network of node %s: %w", n.Name, err)
	}
	for _, a := range n.Status.Addresses {
		if via, err := netip.ParseAddr(a.Address); a.Type == corev1.NodeInternalIP && err == nil {
			return kindx.Route{Pods: pods, Via: via}, nil
		}
	}
	return kindx.Route{}, fmt.Errorf("node %s has no internal address", n.Name)
}

// fileOf is the content of a file of an image.
func fileOf(img v1.Image, path string) ([]byte, error) {
	stream := mutate.Extract(img)
	defer stream.Close()
	for files := tar.NewReader(stream); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("it has no file %s", path)
		}
		if err != nil {
			return nil, err
		}
		if header.Name == path {
			return io.ReadAll(files)
		}
	}
}
