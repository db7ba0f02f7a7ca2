package kindx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// askReady asks the API server of a kubeconfig whether it is ready.
// https://kubernetes.io/docs/reference/using-api/health-checks/
func askReady(ctx context.Context, kubeconfig []byte) (ok bool, saw string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cfg, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return false, err.Error()
	}
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return false, err.Error()
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(cfg.Host, "/")+"/readyz", nil)
	if err != nil {
		return false, err.Error()
	}
	res, err := client.Do(req)
	if err != nil {
		return false, err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 2048))
	if err != nil {
		return false, err.Error()
	}
	return res.StatusCode == http.StatusOK, fmt.Sprintf("%s: %s", res.Status, strings.Join(strings.Fields(string(body)), " "))
}

// tryListen is an error if a port of this machine is not to be had.
func tryListen(ctx context.Context, p PortMapping) error {
	address := net.JoinHostPort(p.Listen, strconv.Itoa(p.HostPort))
	var conn io.Closer
	var err error
	switch p.Protocol {
	case "tcp":
		conn, err = new(net.ListenConfig).Listen(ctx, "tcp", address)
	case "udp":
		conn, err = new(net.ListenConfig).ListenPacket(ctx, "udp", address)
	default:
		return nil // nothing here to try SCTP with
	}
	switch {
	case err == nil:
		return conn.Close()
	case errors.Is(err, syscall.EACCES):
		return nil // a low port, which the engine may have even if this user may not
	}
	return err
}

// checkPorts is an error that names each port that cannot be had.
func checkPorts(ctx context.Context, b backend, ports []PortMapping) error {
	var taken []error
	for _, p := range ports {
		if p.HostPort == 0 {
			continue
		}
		if err := b.listen(ctx, p); err != nil {
			taken = append(taken, fmt.Errorf("port mapping %s: %w: stop what uses the port (`ss -lptn` names it), or map another", p, err))
		}
	}
	return errors.Join(taken...)
}
