"temporary stand-in, replaced by the export of 07_certificate"
import math
def batch_bound(y, supervised=True, alpha=1., q=1.):
    c=y.bincount(); c=c[c>0]; C=len(c); m=int(c[0]); n=len(y); t=math.exp(-C/(C-1))
    return math.log(alpha+q*(t if supervised else ((m-1)+(n-m)*t)/(n-1)))
