package kindx

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/org/spire-vault-99-action/internal/run"
)

// Outside is a container on the network of a cluster's nodes that is none of them: what it
// sends to a pod comes from outside the cluster, by no Service and no port of a node. It
// ends by itself after an hour; the caller closes it.
type Outside struct{ Node }

// Route says by which node a network of pods is to be reached.
type Route struct {
	Pods netip.Prefix
	Via  netip.Addr
}

// outsideLabel marks the containers; its value is the cluster's name. They must not have
// kind's own label, which would make nodes of them.
const outsideLabel = "zerotrust.outside"

// RunOutside starts one beside the cluster, of the nodes' image, which has ip and sh. One
// that an earlier run left is replaced.
func RunOutside(ctx context.Context, cluster string, routes []Route, provider Provider) (*Outside, error) {
	provider = provider.orDefault()
	if err := provider.validate(); err != nil {
		return nil, err
	}
	fail := func(err error) (*Outside, error) {
		return nil, fmt.Errorf("run a container outside of cluster %q: %w", cluster, err)
	}
	nodes, err := Nodes(ctx, cluster)
	if err != nil {
		return fail(err)
	}
	format := "{{.Config.Image}} {{range $name, $network := .NetworkSettings.Networks}}{{$name}} {{end}}"
	said, err := run.Output(ctx, string(provider), "inspect", "--type=container", "--format", format, nodes[0].Name())
	if err != nil {
		return fail(err)
	}
	fields := strings.Fields(said)
	if len(fields) < 2 {
		return fail(fmt.Errorf("node %s has no image and network: %q", nodes[0].Name(), said))
	}
	if err := removeOutside(ctx, cluster, provider); err != nil {
		return fail(err)
	}
	o := &Outside{Node{name: cluster + "-outside", provider: provider}}
	if _, err := run.Output(ctx, string(provider), "run", "--detach", "--rm", "--name", o.name,
		"--label", outsideLabel+"="+cluster, "--network", fields[1], "--cap-add", "NET_ADMIN",
		"--entrypoint", "sleep", fields[0], "3600"); err != nil {
		return fail(err)
	}
	for _, r := range routes {
		if err := o.Exec(ctx, nil, nil, "ip", "route", "replace", r.Pods.String(), "via", r.Via.String()); err != nil {
			return fail(errors.Join(err, o.Close(context.WithoutCancel(ctx))))
		}
	}
	return o, nil
}

// Close removes the container.
func (o *Outside) Close(ctx context.Context) error {
	if _, err := run.Output(ctx, string(o.provider), "rm", "--force", o.name); err != nil {
		return fmt.Errorf("remove container %s: %w", o.name, err)
	}
	return nil
}

// removeOutside removes what an earlier run left.
func removeOutside(ctx context.Context, cluster string, provider Provider) error {
	left, err := run.Output(ctx, string(provider), "ps", "--all", "--quiet", "--filter", "label="+outsideLabel+"="+cluster)
	if err != nil {
		return fmt.Errorf("look for containers outside of cluster %q: %w", cluster, err)
	}
	if ids := strings.Fields(left); len(ids) > 0 {
		_, err = run.Output(ctx, append([]string{string(provider), "rm", "--force"}, ids...)...)
	}
	return err
}
