package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/org/spire-vault-99-action/spire/deploy"
)

// connect opens the one way to the server that the flags name.
func connect(ctx context.Context, o options) (conn grpc.ClientConnInterface, done func(), err error) {
	ways := 0
	for _, given := range []bool{o.socket != "", o.server != "", o.cluster} {
		if given {
			ways++
		}
	}
	switch {
	case ways != 1:
		return nil, nil, errors.New("want one of -socket, -server and -cluster, to say where the SPIRE server is: see --help")
	case o.socket != "":
		return bySocket(o.socket)
	case o.server != "":
		return byAddress(ctx, o)
	}
	return byCluster(ctx, o)
}

func bySocket(path string) (grpc.ClientConnInterface, func(), error) {
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, fmt.Errorf("connect to socket %s: %w", path, err)
	}
	return conn, func() { _ = conn.Close() }, nil
}

// byAddress shows the SVID of the Workload API, renewed as it is renewed there.
func byAddress(ctx context.Context, o options) (grpc.ClientConnInterface, func(), error) {
	if o.workloadAPI == "" {
		return nil, nil, errors.New("-server needs an SVID: say with -workload-api, or SPIFFE_ENDPOINT_SOCKET, where the Workload API is, such as unix:///run/spire/agent.sock")
	}
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(o.workloadAPI)))
	if err != nil {
		return nil, nil, fmt.Errorf("get an SVID from the Workload API at %s: %w", o.workloadAPI, err)
	}
	fail := func(err error) (grpc.ClientConnInterface, func(), error) {
		_ = source.Close()
		return nil, nil, fmt.Errorf("connect to the SPIRE server at %s: %w", o.server, err)
	}
	svid, err := source.GetX509SVID()
	if err != nil {
		return fail(err)
	}
	server, err := spiffeid.FromPath(svid.ID.TrustDomain(), "/spire/server")
	if o.serverID != "" {
		server, err = spiffeid.FromString(o.serverID)
	}
	if err != nil {
		return fail(err)
	}
	conn, err := grpc.NewClient(o.server, grpc.WithTransportCredentials(
		credentials.NewTLS(tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(server)))))
	if err != nil {
		return fail(err)
	}
	return conn, func() {
		_ = conn.Close()
		_ = source.Close()
	}, nil
}

func byCluster(ctx context.Context, o options) (grpc.ClientConnInterface, func(), error) {
	td, err := spiffeid.TrustDomainFromString(o.domain)
	if err != nil {
		return nil, nil, fmt.Errorf("-trust-domain %q: %w", o.domain, err)
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.context}).ClientConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	conn, err := deploy.Connect(ctx, config, deploy.Config{Namespace: o.namespace, TrustDomain: td})
	if err != nil {
		return nil, nil, err
	}
	return conn, func() { _ = conn.Close() }, nil
}
