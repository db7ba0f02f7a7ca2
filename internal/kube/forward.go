package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
)

// Forward carries connections from a local port to a pod. The caller closes it.
type Forward struct {
	Addr string // "127.0.0.1:NNN"

	stop context.CancelFunc
	done chan struct{}
	once sync.Once
	err  error // set before done is closed
}

// Forward listens on a free port of 127.0.0.1 and carries each connection to the
// given port of the pod. ctx bounds the setting up alone; the forward then lives until
// Close. If its stream breaks (kubelet drops it whenever one connection ends badly)
// it is opened again on the same local port; if that fails, because the pod is gone,
// the forward ends: see Done and Err.
func (c *Client) Forward(ctx context.Context, namespace, pod string, port int) (*Forward, error) {
	what := fmt.Sprintf("kube: forward a port to %s port %d", where(namespace, pod, ""), port)
	dialer, err := c.forwardDialer(namespace, pod)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	run, stop := context.WithCancel(klog.NewContext(context.WithoutCancel(ctx), quiet()))
	f := &Forward{stop: stop, done: make(chan struct{})}
	first := make(chan uint16, 1)
	go f.keep(run, dialer, port, first)
	select {
	case local := <-first:
		f.Addr = fmt.Sprintf("127.0.0.1:%d", local)
		return f, nil
	case <-f.done:
		stop()
		return nil, fmt.Errorf("%s: %w", what, f.err)
	case <-ctx.Done():
		stop()
		return nil, fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
}

// keep forwards until run ends or the stream cannot be opened again.
func (f *Forward) keep(run context.Context, dialer httpstream.Dialer, port int, first chan<- uint16) {
	defer close(f.done)
	local := uint16(0)
	for {
		begin := time.Now()
		ready := make(chan struct{})
		pf, err := portforward.NewOnAddressesForStreamingWithContext(run, dialer,
			[]string{"127.0.0.1"}, []string{fmt.Sprintf("%d:%d", local, port)}, ready, nil, nil)
		if err != nil {
			f.err = err
			return
		}
		ended := make(chan error, 1)
		go func() { ended <- pf.ForwardPorts() }()
		select {
		case <-ready:
			if local == 0 {
				ports, err := pf.GetPorts()
				if err != nil {
					f.stop()
					f.err = err
					return
				}
				local = ports[0].Local
				first <- local
			}
			err = <-ended
		case err = <-ended:
		case <-run.Done(): // nothing listens yet, and dialling does not heed run
			return
		}
		if run.Err() != nil {
			return
		}
		if !errors.Is(err, portforward.ErrLostConnectionToPod) {
			f.err = err
			return
		}
		// A stream that breaks as soon as it is opened must not spin.
		pause := time.NewTimer(max(0, 250*time.Millisecond-time.Since(begin)))
		select {
		case <-pause.C:
		case <-run.Done():
			pause.Stop()
			return
		}
	}
}

// Done is closed when the forward has ended: by Close, or because the pod is gone.
func (f *Forward) Done() <-chan struct{} { return f.done }

// Err says why the forward ended; nil while it lives and after Close.
func (f *Forward) Err() error {
	select {
	case <-f.done:
		return f.err
	default:
		return nil
	}
}

// Close ends the forward and frees its port before it returns. It may be called
// more than once.
func (f *Forward) Close() {
	f.once.Do(f.stop)
	<-f.done
}

// forwardDialer speaks SPDY inside a websocket, and plain SPDY where the server does
// not take that.
func (c *Client) forwardDialer(namespace, pod string) (httpstream.Dialer, error) {
	target := c.clientset.CoreV1().RESTClient().Post().
		Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	websocket, err := portforward.NewSPDYOverWebsocketDialerForStreamingWithLogger(quiet(), target, c.cfg)
	if err != nil {
		return nil, err
	}
	transport, upgrader, err := spdy.RoundTripperFor(c.cfg)
	if err != nil {
		return nil, err
	}
	plain := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, target)
	return portforward.NewFallbackDialerForStreaming(websocket, plain, notUpgraded), nil
}
