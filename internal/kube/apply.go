package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/dynamic"
	"k8s.io/klog/v2"
)

// How long one object may wait for its kind to be served, its namespace to be
// ready again, or the API server to answer; and how often that is tried.
const (
	patience      = 60 * time.Second
	retryInterval = 250 * time.Millisecond
)

// Apply server-side-applies every object of the YAML stream as the field manager
// owner, taking over fields that others manage: namespaces first, then custom
// resource definitions, then the rest in the order given. It waits, up to a minute
// for one object, where its kind is not served yet, its namespace is just
// being deleted, or the API server does not answer. The first failure ends it; what was
// applied stays, and a second call goes on from there.
func (c *Client) Apply(ctx context.Context, owner string, manifests []byte) error {
	if owner == "" {
		return errors.New("kube: apply: a field manager (owner) is needed")
	}
	objects, err := parse(manifests)
	if err != nil {
		return fmt.Errorf("kube: apply: read the manifests: %w", err)
	}
	order(objects)
	for _, o := range objects {
		if err := c.applyOne(ctx, owner, o); err != nil {
			return fmt.Errorf("kube: apply %s: %w", describeObject(o), err)
		}
	}
	return nil
}

func (c *Client) applyOne(ctx context.Context, owner string, o *unstructured.Unstructured) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not accepted within %s", patience))
	defer cancel()
	return Wait(ctx, "the API server to accept it", retryInterval, func(ctx context.Context) (bool, string, error) {
		r, err := c.resource(ctx, o)
		if err == nil {
			_, err = r.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: owner, Force: true})
		}
		switch {
		case err == nil:
			return true, "", nil
		case unknownKind(err):
			c.mapper.ResetWithContext(ctx)
			return false, "its kind is not served", err
		case passing(err):
			return false, "", err
		}
		return false, "", Permanent(err)
	})
}

// resource is where the API server keeps objects of o's kind and namespace. It
// gives a namespaced object without one the namespace "default".
func (c *Client) resource(ctx context.Context, o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	gvk := o.GroupVersionKind()
	m, err := c.mapper.RESTMappingWithContext(klog.NewContext(ctx, quiet()), gvk.GroupKind(), gvk.Version)
	if err != nil {
		return nil, err
	}
	if m.Scope.Name() != meta.RESTScopeNameNamespace {
		return c.dynamic.Resource(m.Resource), nil
	}
	if o.GetNamespace() == "" {
		o.SetNamespace(metav1.NamespaceDefault)
	}
	return c.dynamic.Resource(m.Resource).Namespace(o.GetNamespace()), nil
}

// unknownKind is true where the kind is missing from discovery, or is there and its
// endpoint is not yet. A missing namespace also answers 404, and waiting does not mend it.
func unknownKind(err error) bool {
	if meta.IsNoMatchError(err) {
		return true
	}
	status := apierrors.APIStatus(nil)
	if !apierrors.IsNotFound(err) || !errors.As(err, &status) {
		return false
	}
	details := status.Status().Details
	return details == nil || details.Kind != "namespaces"
}

// passing is true for failures that are known to end by themselves.
func passing(err error) bool {
	return apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsTooManyRequests(err) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err) ||
		apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) ||
		utilnet.IsConnectionRefused(err) || utilnet.IsConnectionReset(err) || utilnet.IsProbableEOF(err)
}

// Delete removes every object of the YAML stream, the last one first and
// definitions and namespaces at the end, and waits until all are gone, what they own included.
// One that is not there, or whose kind is not served, is fine.
func (c *Client) Delete(ctx context.Context, manifests []byte) error {
	objects, err := parse(manifests)
	if err != nil {
		return fmt.Errorf("kube: delete: read the manifests: %w", err)
	}
	order(objects)
	slices.Reverse(objects)
	c.mapper.ResetWithContext(ctx) // kinds may have gone since
	var going []*unstructured.Unstructured
	for _, o := range objects {
		deleted, err := c.deleteOne(ctx, o)
		if err != nil {
			return fmt.Errorf("kube: delete %s: %w", describeObject(o), err)
		}
		if deleted {
			going = append(going, o)
		}
	}
	for _, o := range going {
		if err := c.waitGone(ctx, o); err != nil {
			return fmt.Errorf("kube: delete: %w", err)
		}
	}
	return nil
}

// deleteOne asks for the removal; false means there was nothing to remove.
func (c *Client) deleteOne(ctx context.Context, o *unstructured.Unstructured) (bool, error) {
	r, err := c.resource(ctx, o)
	if err == nil {
		foreground := metav1.DeletePropagationForeground
		err = r.Delete(ctx, o.GetName(), metav1.DeleteOptions{PropagationPolicy: &foreground})
	}
	if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// waitGone waits until the object is no more there, or another one has its name.
func (c *Client) waitGone(ctx context.Context, o *unstructured.Unstructured) error {
	return Wait(ctx, describeObject(o)+" to be gone", retryInterval, func(ctx context.Context) (bool, string, error) {
		r, err := c.resource(ctx, o)
		if meta.IsNoMatchError(err) {
			return true, "", nil
		}
		if err != nil {
			return false, "", err
		}
		now, err := r.Get(ctx, o.GetName(), metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return true, "", nil
		case err != nil:
			return false, "", err
		case now.GetDeletionTimestamp() == nil:
			return true, "", nil // made anew by someone else
		}
		return false, stillThere(now), nil
	})
}

// stillThere says what holds back an object that is being deleted.
func stillThere(o *unstructured.Unstructured) string {
	saw := "still there"
	if f := o.GetFinalizers(); len(f) > 0 {
		saw += fmt.Sprintf(", held by finalizers %q", f)
	}
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range conditions {
		condition, _ := c.(map[string]any)
		if condition["status"] == "True" && condition["message"] != nil {
			saw += fmt.Sprintf("; %v: %v", condition["type"], condition["message"])
		}
	}
	return saw
}
