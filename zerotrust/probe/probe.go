package probe

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/org/spire-vault-99-action/internal/kube"
)

const (
	defaultTimeout = 5 * time.Second
	// startPatience is how long the container may take to run, execPatience how long a
	// try may take beyond its timeout, and endPatience how long a node may take to
	// report that a container has ended.
	startPatience = time.Minute
	execPatience  = 30 * time.Second
	endPatience   = 5 * time.Second
	pollInterval  = 250 * time.Millisecond
)

// Config says what is put into the pods. Image is required.
type Config struct {
	// Image is the reference of the prober's image: the program in prober/, at
	// /app/prober, as images.Build makes it.
	Image string
	// PullPolicy is Always, IfNotPresent or Never. "" is Never: the image is loaded
	// into the nodes, and where it was not, that is said at once.
	PullPolicy string
	// Idle is how long a container stays after its last try; default 10 minutes. It
	// must be longer than any try.
	Idle time.Duration
}

// Prober puts the probe into pods and makes tries from there. All it knows is in the
// pods, so that several, in one process or more, share their containers. It is safe for
// concurrent use.
type Prober struct {
	client *kube.Client
	cfg    Config
}

// New makes a Prober; it does not talk to the cluster yet. What is wrong with the
// config is told by Try.
func New(client *kube.Client, cfg Config) *Prober {
	cfg.PullPolicy = cmp.Or(cfg.PullPolicy, string(corev1.PullNever))
	cfg.Idle = cmp.Or(cfg.Idle, 10*time.Minute)
	return &Prober{client, cfg}
}

// Try tries once, for at most timeout (default 5 s), to connect from inside the pod to
// target, which is one of
//
//	host:port             whether it connects over TCP
//	udp://host:port       whether an answer comes
//	tls://host:port       and what certificates it presents
//	http://host:port/path and with what status it answers a GET
//	dns://host            whether the name is found; nothing is connected to
//
// The pod needs its namespace, its name and, if another one of that name must not do (as a
// StatefulSet would make), its UID. If no container of ours runs in it, one is added, which
// takes a second or two; it may take a minute, and goes on starting if ctx ends before.
//
// The Attempt tells whether it connected. An error means that nothing is known of the
// target; it is an ErrAdmission where a policy or webhook of the cluster refuses the prober.
func (p *Prober) Try(ctx context.Context, pod corev1.Pod, target string, timeout time.Duration) (Attempt, error) {
	a, err := p.try(ctx, &pod, target, cmp.Or(timeout, defaultTimeout))
	if err != nil {
		return Attempt{}, fmt.Errorf("probe: try %s from pod %s/%s: %w", target, pod.Namespace, pod.Name, err)
	}
	return a, nil
}

func (p *Prober) try(ctx context.Context, pod *corev1.Pod, target string, timeout time.Duration) (Attempt, error) {
	if err := p.check(pod, target, timeout); err != nil {
		return Attempt{}, err
	}
	for first := true; ; first = false {
		container, now, err := p.ready(ctx, pod)
		if err != nil {
			return Attempt{}, err
		}
		printed, err := p.exec(ctx, now, container, target, timeout)
		if err == nil {
			return Parse(printed, target)
		}
		// It may have ended, idle, since the node reported it last.
		if !first || !p.hasEnded(ctx, now, container) {
			return Attempt{}, err
		}
	}
}

func (p *Prober) check(pod *corev1.Pod, target string, timeout time.Duration) error {
	switch {
	case p.cfg.Image == "":
		return errors.New("Config.Image is required")
	case !slices.Contains([]string{"Always", "IfNotPresent", "Never"}, p.cfg.PullPolicy):
		return fmt.Errorf("Config.PullPolicy %q: want Always, IfNotPresent or Never", p.cfg.PullPolicy)
	case pod.Namespace == "" || pod.Name == "":
		return errors.New("the pod's namespace and name are required")
	case timeout < 0:
		return fmt.Errorf("a timeout of %s cannot be", timeout)
	case p.cfg.Idle <= timeout:
		return fmt.Errorf("Config.Idle of %s is not longer than the try's timeout of %s", p.cfg.Idle, timeout)
	}
	return checkTarget(target)
}

// ready returns the container to try from, and the pod as it was seen, once the
// container runs. Everyone who finds none adds the same one to the pod as they saw it;
// the API server takes one, and the others look again and find it.
func (p *Prober) ready(ctx context.Context, pod *corev1.Pod) (string, *corev1.Pod, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startPatience, fmt.Errorf("it does not run within %s", startPatience))
	defer cancel()
	var name, saw string // saw outlives errors, which would hide it
	var now *corev1.Pod
	err := kube.Wait(ctx, "the prober's container", pollInterval, func(ctx context.Context) (bool, string, error) {
		var err error
		if now, err = p.get(ctx, pod); err != nil {
			return false, saw, err
		}
		next, err := decide(now, p.cfg)
		if err != nil {
			return false, "", kube.Permanent(err)
		}
		if next.add != "" {
			saw = "container " + next.add + " is to be added"
			return false, saw, p.add(ctx, now, next.add)
		}
		name, saw = next.use, next.saw
		return name != "", saw, nil
	})
	return name, now, err
}

// get is the pod as it is now; another one of its name is an error.
func (p *Prober) get(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	now, err := p.client.Clientset().CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	if err != nil {
		return nil, lasting(err)
	}
	if pod.UID != "" && now.UID != pod.UID {
		return nil, kube.Permanent(fmt.Errorf("it was replaced by another pod of its name (UID %s, now %s): list the pods again", pod.UID, now.UID))
	}
	return now, nil
}

// add adds the container to the pod, unless the pod has changed since it was seen.
func (p *Prober) add(ctx context.Context, seen *corev1.Pod, name string) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": seen.ResourceVersion},
		"spec":     map[string]any{"ephemeralContainers": []any{container(name, seen, p.cfg)}},
	})
	if err != nil {
		return kube.Permanent(err)
	}
	_, err = p.client.Clientset().CoreV1().Pods(seen.Namespace).Patch(ctx, seen.Name,
		types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "ephemeralcontainers")
	err = admission(err, p.cfg.Image, seen.Namespace)
	if err != nil {
		return lasting(fmt.Errorf("add ephemeral container %s: %w", name, err))
	}
	return nil
}

// ErrAdmission is that of a try in a pod that the cluster's admission lets no prober into.
var ErrAdmission = errors.New("the cluster's admission refuses the prober")

// admission tells a refusal by a policy, a webhook or Pod Security from others, by its words,
// as it may have any code:
// https://github.com/kubernetes/kubernetes/blob/v1.34.0/staging/src/k8s.io/apiserver/pkg/admission/plugin/policy/validating/dispatcher.go
// https://github.com/kubernetes/kubernetes/blob/v1.34.0/staging/src/k8s.io/apiserver/pkg/admission/plugin/webhook/errors/statuserror.go
func admission(err error, image, namespace string) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return err
	}
	for _, words := range []string{" denied request: ", " denied the request", "violates PodSecurity"} {
		if strings.Contains(status.Status().Message, words) {
			return fmt.Errorf("%w: have it let ephemeral containers %s* of image %s into namespace %s, or give an image that it lets in as Config.Image: %w",
				ErrAdmission, namePrefix, image, namespace, err)
		}
	}
	return err
}

// lasting marks what asking again does not mend. A conflict is no such thing.
func lasting(err error) error {
	if errors.Is(err, ErrAdmission) || apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) ||
		apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsMethodNotSupported(err) {
		return kube.Permanent(err)
	}
	return err
}

// exec runs the try and returns what it printed.
func (p *Prober) exec(ctx context.Context, pod *corev1.Pod, container, target string, timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout+execPatience, fmt.Errorf("no result came within %s", timeout+execPatience))
	defer cancel()
	return p.client.ExecOutput(ctx, pod.Namespace, pod.Name, container,
		program, "try", "-timeout", timeout.String(), "-socket", socket(container, pod), "--", target)
}

// hasEnded says whether the container is reported to have ended, or is about to be.
func (p *Prober) hasEnded(ctx context.Context, pod *corev1.Pod, container string) bool {
	ctx, cancel := context.WithTimeout(ctx, endPatience)
	defer cancel()
	err := kube.Wait(ctx, "the end of container "+container, pollInterval, func(ctx context.Context) (bool, string, error) {
		now, err := p.get(ctx, pod)
		if err != nil {
			return false, "", err
		}
		ended := slices.ContainsFunc(probers(now), func(c prober) bool { return c.Name == container && c.state.Terminated != nil })
		return ended, "it runs", nil
	})
	return err == nil
}
