package kindx

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	kindexec "sigs.k8s.io/kind/pkg/exec"
)

func TestParseNodes(t *testing.T) {
	got, err := parseNodes("/c-worker10\trunning\tworker\n/c-worker2\texited\tworker\n/c-worker\trunning\tworker\n/c-control-plane\trunning\tcontrol-plane\n")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"c-control-plane", "c-worker", "c-worker2", "c-worker10"}; !slices.Equal(names(got), want) {
		t.Errorf("order %v, want %v", names(got), want)
	}
	if got[2].state != "exited" || !got[0].controlPlane() {
		t.Errorf("got %+v", got)
	}
	if _, err := parseNodes("c-worker\n"); err == nil {
		t.Error("a line without its fields must be an error")
	}
}

func TestExecArgv(t *testing.T) {
	n := &Node{name: "c-worker", provider: Podman}
	if got, want := n.execArgv(true, []string{"ctr", "images", "import", "-"}), strings.Fields("podman exec --privileged --interactive c-worker ctr images import -"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := n.execArgv(false, []string{"true"}), strings.Fields("podman exec --privileged c-worker true"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Whatever reaches a node goes by the provider's own client.
func TestArgvOfEachProvider(t *testing.T) {
	for _, p := range []Provider{Docker, Podman, Nerdctl} {
		n := &Node{name: "c-worker", provider: p}
		for _, argv := range [][]string{n.execArgv(true, []string{"ctr"}), n.execArgv(false, []string{"ctr"}), clusterNodesArgv(p), clusterLabelsArgv(p, []string{"c-worker"}), newBackend(p, sink{}).engine("ps")} {
			if argv[0] != string(p) {
				t.Errorf("%s: %q", p, argv)
			}
		}
	}
	if got, want := clusterLabelsArgv(Podman, []string{"a", "b"}), []string{"podman", "inspect", "--type=container", "--format", `{{index .Config.Labels "io.x-k8s.kind.cluster"}}`, "a", "b"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := parseClusters("b\na\nb\n\n"), []string{"a", "b"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, err := range []error{
		func() error { _, err := NodesOf(t.Context(), "c", Config{Provider: "lxc"}); return err }(),
		func() error { _, err := Clusters(t.Context(), Config{Provider: "lxc"}); return err }(),
	} {
		if err == nil || !strings.Contains(err.Error(), `"lxc" is not known`) {
			t.Errorf("error %v", err)
		}
	}
}

func TestParseInfo(t *testing.T) {
	tests := []struct {
		name    string
		doc     string
		parse   func([]byte) (engineInfo, error)
		want    engineInfo
		wantErr string
	}{
		{
			"docker", `{"ServerVersion":"20.10.24","CgroupVersion":"1","DockerRootDir":"/var/lib/docker","DefaultRuntime":"runc","Runtimes":{"runc":{"path":"runc"}}}`, parseDockerInfo,
			engineInfo{Version: "20.10.24", CgroupVersion: 1, RootDir: "/var/lib/docker", DefaultRuntime: "runc", Runtimes: map[string]string{"runc": "runc"}}, "",
		},
		{"docker without a server", `{"ServerErrors":["Cannot connect to the Docker daemon"]}`, parseDockerInfo, engineInfo{}, "Cannot connect"},
		{"no JSON", `oops`, parseDockerInfo, engineInfo{}, "read the engine's info"},
		{
			"podman", `{"host":{"cgroupVersion":"v2","ociRuntime":{"name":"crun","path":"/usr/bin/crun"}},"store":{"graphRoot":"/g"},"version":{"Version":"4.3.1"}}`, parsePodmanInfo,
			engineInfo{Version: "4.3.1", CgroupVersion: 2, RootDir: "/g", DefaultRuntime: "crun", Runtimes: map[string]string{"crun": "/usr/bin/crun"}}, "",
		},
	}
	for _, tt := range tests {
		got, err := tt.parse([]byte(tt.doc))
		if (err == nil) != (tt.wantErr == "") || err != nil && !strings.Contains(err.Error(), tt.wantErr) {
			t.Errorf("%s: error %v, want %q", tt.name, err, tt.wantErr)
		}
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestKindLogger(t *testing.T) {
	var got []string
	l := kindLogger{sink{"c", func(e Event) { got = append(got, e.String()) }}}
	l.V(0).Infof("Creating cluster %q ...\n", "c")
	l.V(0).Infof(" • %s  ...\n", "Preparing nodes 📦 📦 ")
	l.V(0).Infof(" ✓ %s\n", "Preparing nodes 📦 📦 ")
	l.V(1).Info("chatter")
	l.V(0).Info("")
	l.Warn("two\nlines")
	want := []string{`c: Creating cluster "c"`, "c: Preparing nodes", "c: warning: two lines"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestKindErrorSaysWhatTheCommandPrinted(t *testing.T) {
	inner := &kindexec.RunError{Command: []string{"docker", "run"}, Output: []byte(strings.Repeat("x", 9000) + " port is already allocated\n"), Inner: errors.New("exit status 125")}
	err := kindError(inner)
	if !errors.Is(err, inner) || !strings.HasSuffix(err.Error(), "port is already allocated") || len(err.Error()) > 5000 {
		t.Errorf("got %d bytes: %v", len(err.Error()), err)
	}
	err = kindError(errors.New("failed to lock config file: open /k/config.lock: file exists"))
	if !strings.Contains(err.Error(), "remove the lock file") {
		t.Errorf("got %v", err)
	}
	if kindError(nil) != nil {
		t.Error("no error must stay none")
	}
}

func TestNoSuchFile(t *testing.T) {
	for said, want := range map[string]bool{
		"Error response from daemon: Could not find the file /kind/x in container c":        true,
		"Error: No such container:path: c:/kind/x":                                          true,
		`Error: "/kind/x" could not be found on container c: no such file or directory`:     true,
		`level=fatal msg="source does not exist"`:                                           true,
		"Error response from daemon: No such container: c":                                  false,
		"Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running": false,
	} {
		if noSuchFile(said) != want {
			t.Errorf("noSuchFile(%q) = %v", said, !want)
		}
	}
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	hold := make(chan struct{})
	defer close(hold)
	cancel()
	if err := await(ctx, func() error { <-hold; return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	want := errors.New("own")
	if err := await(t.Context(), func() error { return want }); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
}

func TestAskReady(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		w.WriteHeader(status)
		fmt.Fprint(w, "[-]etcd failed\n[+]ping ok\n")
	}))
	defer server.Close()
	doc := kubeconfigFor(server)
	if ok, saw := askReady(t.Context(), doc); !ok {
		t.Errorf("ready server: %s", saw)
	}
	status = http.StatusInternalServerError
	if ok, saw := askReady(t.Context(), doc); ok || saw != "500 Internal Server Error: [-]etcd failed [+]ping ok" {
		t.Errorf("unready server: %v, %s", ok, saw)
	}
	server.Close()
	if ok, saw := askReady(t.Context(), doc); ok || !strings.Contains(saw, "refused") {
		t.Errorf("dead server: %v, %s", ok, saw)
	}
	if ok, saw := askReady(t.Context(), []byte("nonsense")); ok || saw == "" {
		t.Errorf("no kubeconfig: %v, %s", ok, saw)
	}
}

func kubeconfigFor(server *httptest.Server) []byte {
	var certs []byte
	for _, c := range []tls.Certificate{server.TLS.Certificates[0]} {
		certs = append(certs, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})...)
	}
	return fmt.Appendf(nil, `
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, server.URL, base64.StdEncoding.EncodeToString(certs))
}

func TestTryListen(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := PortMapping{Listen: "127.0.0.1", HostPort: l.Addr().(*net.TCPAddr).Port, Protocol: "tcp"}
	if err := tryListen(t.Context(), port); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("taken port: %v", err)
	}
	l.Close()
	if err := tryListen(t.Context(), port); err != nil {
		t.Errorf("free port: %v", err)
	}
	port.Protocol = "udp"
	if err := tryListen(t.Context(), port); err != nil {
		t.Errorf("free UDP port: %v", err)
	}
}
