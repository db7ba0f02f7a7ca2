package backendtest

import (
	"context"
	"crypto/x509"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
)

// ServeAgent is the Workload API on a unix socket until the context ends. It gives
// whoever asks the SVID of id, and a new one half-way through its life, as SPIRE's
// agent does.
func ServeAgent(ctx context.Context, socket string, ca *CA, id spiffeid.ID, life time.Duration) error {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, &agent{ca: ca, id: id, life: life})
	context.AfterFunc(ctx, server.Stop)
	return server.Serve(l)
}

type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	ca   *CA
	id   spiffeid.ID
	life time.Duration
}

func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	for {
		svid, err := a.ca.SVID(a.id, a.life)
		if err != nil {
			return err
		}
		key, err := x509.MarshalPKCS8PrivateKey(svid.PrivateKey)
		if err != nil {
			return err
		}
		if err := stream.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
			SpiffeId: a.id.String(), X509Svid: svid.Certificates[0].Raw, X509SvidKey: key, Bundle: a.ca.cert.Raw,
		}}}); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-time.After(a.life / 2):
		}
	}
}
