package probe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/internal/kube"
	"github.com/org/spire-vault-99-action/internal/run"
)

const (
	goodImage = "r.example/prober:1" // on the fake's node
	badImage  = "r.example/broken:1" // there too, without the program
)

// fakePod is an API server with one pod, a/p, at the wire, and its node. Containers and
// execs run the real prober, on this machine.
type fakePod struct {
	program string

	mu        sync.Mutex
	pod       *corev1.Pod
	version   int
	conflicts int                  // how many patches are still to meet a pod that has just changed
	refused   int                  // patches that did
	denial    *metav1.Status       // what admission says to each patch
	denied    int                  // patches that it was said to
	stale     bool                 // the node reports no end
	running   map[string]*exec.Cmd // by container
	wait      sync.WaitGroup       // for the running
	closed    bool                 // the test is over
	stderr    bytes.Buffer         // of all execs
	execs     [][]string           // argvs
}

func newFake(t *testing.T) (*fakePod, *kube.Client) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "prober")
	if _, err := run.Output(t.Context(), "go", "build", "-o", program, "./prober"); err != nil {
		t.Fatal(err)
	}
	f := &fakePod{program: program, running: map[string]*exec.Cmd{}, pod: has()}
	// Sockets of that name are known on the whole machine.
	f.pod.UID = types.UID(fmt.Sprintf("test-%d", time.Now().UnixNano()))
	srv := httptest.NewServer(f)
	t.Cleanup(func() {
		f.mu.Lock()
		f.closed = true
		for _, c := range f.running {
			_ = c.Process.Kill()
		}
		f.mu.Unlock()
		f.wait.Wait()
		srv.Close()
	})
	client, err := kube.New(&rest.Config{Host: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	return f, client
}

func (f *fakePod) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const path = "/api/v1/namespaces/a/pods/p"
	switch {
	case r.Method == http.MethodGet && r.URL.Path == path:
		f.mu.Lock()
		defer f.mu.Unlock()
		f.answer(w)
	case r.Method == http.MethodPatch && r.URL.Path == path+"/ephemeralcontainers":
		f.patch(w, r)
	case r.URL.Path == path+"/exec":
		f.serveExec(w, r)
	default:
		status(w, http.StatusNotFound, metav1.StatusReasonNotFound, r.URL.Path+" not found")
	}
}

func (f *fakePod) answer(w http.ResponseWriter) {
	f.pod.ResourceVersion = fmt.Sprint(f.version)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(f.pod)
}

func status(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message})
}

// patch takes more ephemeral containers, and no change of those that are there.
func (f *fakePod) patch(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.denial != nil {
		f.denied++
		status(w, int(f.denial.Code), f.denial.Reason, f.denial.Message)
		return
	}
	if f.conflicts > 0 {
		f.conflicts--
		f.version++
	}
	f.pod.ResourceVersion = fmt.Sprint(f.version)
	body, _ := io.ReadAll(r.Body)
	before, _ := json.Marshal(f.pod)
	after, err := strategicpatch.StrategicMergePatch(before, body, corev1.Pod{})
	var p corev1.Pod
	if err == nil {
		err = json.Unmarshal(after, &p)
	}
	if err != nil || r.Header.Get("Content-Type") != string(types.StrategicMergePatchType) {
		status(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, fmt.Sprint(err))
		return
	}
	if p.ResourceVersion != f.pod.ResourceVersion {
		f.refused++
		status(w, http.StatusConflict, metav1.StatusReasonConflict, "the object has been modified")
		return
	}
	old := map[string]corev1.EphemeralContainer{}
	for _, c := range f.pod.Spec.EphemeralContainers {
		old[c.Name] = c
	}
	for _, c := range p.Spec.EphemeralContainers {
		was, there := old[c.Name]
		if a, b := fmt.Sprintf("%+v", was.Command), fmt.Sprintf("%+v", c.Command); there && (a != b || was.Image != c.Image) {
			status(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "existing ephemeral containers may not be changed")
			return
		}
		if !there {
			f.pod.Spec.EphemeralContainers = append(f.pod.Spec.EphemeralContainers, c)
			f.start(c)
		}
	}
	f.version++
	f.answer(w)
}

// start runs a container, and reports it as a node would.
func (f *fakePod) start(c corev1.EphemeralContainer) {
	switch c.Image {
	case goodImage:
	case badImage:
		f.report(c.Name, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "RunContainerError"}})
		f.pod.Status.EphemeralContainerStatuses[len(f.pod.Status.EphemeralContainerStatuses)-1].LastTerminationState.Terminated =
			&corev1.ContainerStateTerminated{ExitCode: 128, Reason: "StartError", Message: c.Command[0] + ": no such file or directory"}
		return
	default:
		f.report(c.Name, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImageNeverPull", Message: "not present"}})
		return
	}
	f.report(c.Name, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}})
	f.wait.Go(func() {
		time.Sleep(pollInterval) // so that it is seen on its way
		var stderr bytes.Buffer
		cmd := exec.Command(f.program, c.Command[1:]...)
		cmd.Stderr = &stderr
		stdout, err := cmd.StdoutPipe()
		f.mu.Lock()
		if f.closed || err != nil || c.Command[0] != program || cmd.Start() != nil {
			f.mu.Unlock()
			return
		}
		f.running[c.Name] = cmd
		f.mu.Unlock()
		_, _ = stdout.Read(make([]byte, 1)) // it is there when it says so
		f.mu.Lock()
		f.report(c.Name, corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})
		f.mu.Unlock()
		err = cmd.Wait()
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.running, c.Name)
		t := &corev1.ContainerStateTerminated{Reason: "Completed", Message: stderr.String()}
		if err != nil {
			t.Reason, t.ExitCode = "Error", int32(cmd.ProcessState.ExitCode())
			if t.ExitCode < 0 {
				t.ExitCode = 137
			}
		}
		if !f.stale {
			f.report(c.Name, corev1.ContainerState{Terminated: t})
		}
	})
}

func (f *fakePod) report(name string, state corev1.ContainerState) {
	f.version++
	for i, s := range f.pod.Status.EphemeralContainerStatuses {
		if s.Name == name {
			f.pod.Status.EphemeralContainerStatuses[i].State = state
			return
		}
	}
	f.pod.Status.EphemeralContainerStatuses = append(f.pod.Status.EphemeralContainerStatuses, corev1.ContainerStatus{Name: name, State: state})
}

// serveExec speaks v5.channel.k8s.io: the first byte of a message is its stream.
func (f *fakePod) serveExec(w http.ResponseWriter, r *http.Request) {
	container, argv := r.URL.Query().Get("container"), r.URL.Query()["command"]
	f.mu.Lock()
	_, runs := f.running[container]
	f.execs = append(f.execs, argv)
	f.mu.Unlock()
	if !runs || argv[0] != program {
		status(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, fmt.Sprintf("container not found (%q)", container))
		return
	}
	up := websocket.Upgrader{Subprotocols: []string{"v5.channel.k8s.io"}}
	conn, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(r.Context(), f.program, argv[1:]...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	result := metav1.Status{Status: metav1.StatusSuccess}
	if err := cmd.Run(); err != nil {
		result = metav1.Status{Status: metav1.StatusFailure, Reason: "NonZeroExitCode",
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: "ExitCode", Message: fmt.Sprint(cmd.ProcessState.ExitCode())}}}}
	}
	f.mu.Lock()
	f.stderr.Write(stderr.Bytes())
	f.mu.Unlock()
	ended, _ := json.Marshal(result)
	for stream, data := range [][]byte{1: stdout.Bytes(), 2: stderr.Bytes(), 3: ended} {
		if len(data) > 0 {
			_ = conn.WriteMessage(websocket.BinaryMessage, append([]byte{byte(stream)}, data...))
		}
	}
	_ = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
}

// containers are the names and states of all that were added.
func (f *fakePod) containers() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, c := range probers(f.pod) {
		s := "waits"
		switch {
		case c.state.Running != nil:
			s = "runs"
		case c.state.Terminated != nil:
			s = fmt.Sprintf("ended %d", c.state.Terminated.ExitCode)
		}
		all = append(all, c.Name+" "+s)
	}
	return all
}

// says fails the test unless err tells all of the words.
func says(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal(errors.New("no error"))
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}
